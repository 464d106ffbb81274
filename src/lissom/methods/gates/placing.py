"""Gates in the forward pass: weights, or what layers read, are multiplied by each call's draw."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.errors import GateError
from lissom.methods import placing
from lissom.methods.placing import Place, Placing, require_original
from lissom.methods.plain import require_plain
from lissom.running import leaves
from lissom.shards import is_sharded

LOG_ALPHA = "lissom_log_alpha"


class Waiting:
    """Says whether a draw still waits for its backward pass."""

    over = False

    def mark_over(self, gradient: Tensor) -> None:
        """Called with the gradient of the draw, when all of it is there."""
        self.over = True


Draw = Callable[[int | None, Waiting], Sequence[Tensor]]


class Drawing(Placing):
    """Hooks that bring a draw of gates into each call of a model.

    Where the backward pass runs a part of the model again (gradient checkpointing), it gets the
    draw of the forward pass.

    Args:
        model: whose calls draw.
        places: where the gates act.
        draw: gives the gates of every block: one number each, or one for each example, [B, …].
    """

    def __init__(self, model: nn.Module, places: list[Place], draw: Draw) -> None:
        self.draw = draw
        super().__init__(model, places)

    def clear(self) -> None:
        super().clear()
        self._forget()

    @abstractmethod
    def _made_of(self, gates: Sequence[Tensor]) -> list[Tensor]:
        """What the layers are given."""

    def _forget(self) -> None:
        self._last: list[Tensor] | None = None
        self._recorded = False  # whether a gradient can go back to it
        self._waiting: WeakSet[Waiting] = WeakSet()
        self._calls = []

    def _call(self, module: nn.Module, examples: int | None) -> list[Tensor]:
        """What this call is given: of a new draw, or again of the last one."""
        require_original(module, "gates", GateError)
        if torch.compiler.is_compiling():
            return self._made_of(self.draw(examples, Waiting()))
        if self._last is not None and torch._C._current_graph_task_id() != -1:
            return self._again(module)
        self._last = None  # before the next one is made
        waiting = Waiting()
        self._last = self._made_of(self.draw(examples, waiting))
        self._waiting.add(waiting)
        self._recorded = torch.is_grad_enabled()
        return self._last

    def _again(self, module: nn.Module) -> list[Tensor]:
        """The last draw, for a part that gradient checkpointing runs again.

        Raises:
            GateError: if it cannot be known, or its gradient would be lost.
        """
        assert self._last is not None
        if sum(not one.over for one in self._waiting) > 1:
            raise GateError(
                "gradient checkpointing runs a part of the model again, and several forward passes "
                "wait for their backward pass, each with gates of its own: call backward after "
                "each forward pass"
            )
        if module is self.model or not self._recorded:
            raise GateError(
                "gates are drawn outside what gradient checkpointing runs again: put checkpoint("
                f"…, use_reentrant=False) on parts inside of the gated {type(self.model).__name__}"
            )
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        # A graph can be neither copied nor sent.
        transient = ("_last", "_waiting", "_calls", "_read")
        return {name: kept for name, kept in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class OnWeights(Drawing, placing.OnWeights):
    """One draw for each call: gated weights are multiplied by it."""

    def _made_of(self, gates: Sequence[Tensor]) -> list[Tensor]:
        return [place.times(gates) for place in self.places]

    def _products(self, module: nn.Module) -> list[Tensor]:
        return self._call(module, None)


class OnGathered(OnWeights):
    """The same where weights are gathered for the call of their layer, and so are gated then.

    So does fully_shard; before and after a layer's call there is a shard in their place.
    """

    def _hook(self) -> list[RemovableHandle]:
        handles = super()._hook()
        for place in self.places:
            for owner, attribute in place.owners:
                enter, leave = partial(self._enter, place, attribute), partial(_leave, attribute)
                handles += [
                    owner.register_forward_pre_hook(enter),  # after it was gathered
                    owner.register_forward_hook(leave, always_call=True),
                ]
        return handles

    def _made_of(self, gates: Sequence[Tensor]) -> list[Tensor]:
        return list(gates)

    def _install(self, products: list[Tensor]) -> None:
        """Nothing yet: each layer has its own by `_enter`."""

    def _enter(self, place: Place, attribute: str, owner: nn.Module, args: Any) -> None:
        if is_sharded(place.parameter):
            raise GateError(
                f"{place.name} stays sharded in the call of its layer, as under tensor "
                "parallelism, where gates are not known: gate a model that fully_shard alone "
                "shards, or use proximal"
            )
        owner.__dict__[attribute] = place.times(self._calls[-1][1])


def _leave(attribute: str, owner: nn.Module, args: Any, output: Any) -> None:
    owner.__dict__.pop(attribute, None)


class OnInputs(Drawing):
    """A draw for each example: what dense and convolution layers read is multiplied by it.

    The same as gates on their columns, w_ok z_k x_k = w_ok (z_k x_k), for units that nothing but
    columns of such layers reads.

    Raises:
        GateError: for gates that act on anything else.
    """

    def _hook(self) -> list[RemovableHandle]:
        for place in self.places:
            for owner, attribute in place.owners:
                dim = _input_dim(owner)
                along = {d for _, spread in place.factors for d in spread.dims}
                if dim is None or attribute != "weight" or not along <= {dim}:
                    raise GateError(
                        f"draws='example' multiplies what dense and convolution layers read, and "
                        f"the gates of {place.name} are not on the inputs of one: gate neurons or "
                        "channels, or use draws='batch'"
                    )
        handles = [
            self.model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
            self.model.register_forward_hook(self._after, always_call=True),
        ]
        for number, place in enumerate(self.places):
            for owner, _ in place.owners:
                handles.append(owner.register_forward_pre_hook(partial(self._reads, number)))
        return handles

    def _made_of(self, gates: Sequence[Tensor]) -> list[Tensor]:
        return [z.flatten(1) for z in gates]

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        examples = next((len(x) for x in leaves((args, kwargs)) if x.ndim), None)
        if examples is None:
            raise GateError(
                "draws='example' draws gates for each example of a batch, and the network was "
                "called without a tensor that has one"
            )
        self._calls.append((module, self._call(module, examples)))
        self._read = [False] * len(self.places)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._calls:
            self._calls.pop()
        if output is not None and not all(self._read):
            place = self.places[self._read.index(False)]
            raise GateError(
                f"draws='example' gates the inputs of layers, and the layer of {place.name} was "
                "not called in this pass (its weight may have been used directly): leave it out, "
                "or use draws='batch'"
            )

    def _reads(self, number: int, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        place = self.places[number]
        x, *others = args
        if self._calls:
            gates = self._calls[-1][1]
            self._read[number] = True
        elif self._last is not None and torch._C._current_graph_task_id() != -1:
            gates = self._again(module)
        else:
            raise GateError(
                f"{place.name} was used outside a call of the gated model, which draws: call the "
                "model itself, or gate that part of it, or use draws='batch'"
            )
        channel = -1 if isinstance(module, nn.Linear) else 1
        for block, spread in place.factors:
            z = gates[block]  # [B, n], [1, n] in evaluation mode
            if len(z) not in (1, len(x)):
                raise GateError(
                    f"draws='example' drew for {len(z)} examples, but {place.name} reads an input "
                    f"of shape {tuple(x.shape)}: the first dim of every layer's input must be the "
                    "batch. Use draws='batch'"
                )
            if spread.index is not None:
                z = torch.cat([z, z.new_ones(len(z), 1)], 1)[:, spread.index.to(z.device)]
            shape = [1] * x.ndim
            shape[0], shape[channel] = z.shape
            x = x * z.view(shape).to(x.dtype)
        return (x, *others)


def check_ungated(model: nn.Module) -> None:
    """Refuse gates beside gates.

    Raises:
        GateError: if there are some on the model, or on a part or a parent of it.
    """
    if any(placing_on(module) is not None for module in model.modules()):
        raise GateError(
            f"there are gates on this {type(model).__name__}, or on a part or a parent of it: give "
            "all groups in one lissom.gate(optimizer, model, {groups: penalty, …}), or take the "
            "others off by .remove()"
        )
    require_plain(model, "gate")


def placing_on(module: nn.Module) -> Drawing | None:
    """The hooks of gates on a module itself, if there are any."""
    for hook in module._forward_pre_hooks.values():
        placed = getattr(hook, "__self__", None)
        if isinstance(placed, Drawing):
            return placed
    return None


def placing_of(model: nn.Module) -> Drawing:
    """The hooks of the gates on a model.

    Raises:
        GateError: if it has none.
    """
    if (found := placing_on(model)) is not None:
        return found
    raise GateError(f"this {type(model).__name__} has no gates: put them on with lissom.gate")


def _input_dim(module: nn.Module) -> int | None:
    """The dim of a layer's weight that runs over its inputs."""
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups != 1:
            return None
        return 0 if module.transposed else 1
    # nn.MultiheadAttention never calls its `out_proj`, which is of a class of its own.
    return 1 if type(module) is nn.Linear else None

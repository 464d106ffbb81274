"""What would train the wrong thing without a word, and a method cannot see in its own step.

* Another optimizer steps its weights, and its own never does: a notebook's cell was run again.
* The optimizer's state was loaded and the method's was not: its schedules are somewhere else.
* Weights that had vanished are back, and would be zeroed again: those of before were loaded.
* A layer is left with nothing, so that the network's answer does not depend on its input.

Each is a warning, since each may be meant.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from lissom.errors import warn
from lissom.groups import Partition

if TYPE_CHECKING:
    from lissom.methods.method import Method

ELSEWHERE = 10  # steps of another optimizer without one of the method's own
EARLY = 32  # steps in which a layer may fill again after a budget began
POOR = 0.01  # of a layer's equal part of a budget; layers that worked had at least 0.08

_watches: WeakSet["Watch"] = WeakSet()
_on_all_optimizers: list[RemovableHandle] = []


class Watch:
    """Looks at what happens around one method, between its steps."""

    def __init__(self, method: "Method") -> None:
        self.method = method
        self._tensors: list[Tensor] = []  # the method's, at which every step looks
        self._own: frozenset[int] = frozenset()  # their ids
        self._handles: list[RemovableHandle] = []
        self._elsewhere = 0  # steps of other optimizers since the last of its own
        self._versions: list[int] | None = None  # torch's counts of changes, after the last step
        self._before: dict[str, Any] | None = None  # the optimizer's state, while one is loaded
        self._together = -1  # the step at which the method's own state was loaded
        self._apart = False  # whether the optimizer's was since, and this one was not
        self._poor: set[Partition] = set()  # layers with nothing left when it last looked
        self._told: set[str] = set()  # what was told, each once

    def follow(self, optimizer: Optimizer) -> None:
        """Begin, with the method."""
        self._tensors = self.method.tensors()
        self._own = frozenset(map(id, self._tensors))
        self._handles = [
            # Of a compiled step it is no part.
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step)),
            optimizer.register_load_state_dict_pre_hook(self._loading),
            optimizer.register_load_state_dict_post_hook(self._loaded),
        ]
        _watches.add(self)
        if not _on_all_optimizers:
            hook = torch.compiler.disable(_stepped)
            _on_all_optimizers.append(register_optimizer_step_post_hook(hook))

    def remove(self) -> None:
        """End, with the method."""
        for handle in self._handles:
            handle.remove()
        _watches.discard(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": [], "_before": None}

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimizer has taken a step, whichever it is."""
        method = self.method
        if optimizer is method.optimizer:
            self._elsewhere = 0
            return
        if not any(id(p) in self._own for group in optimizer.param_groups for p in group["params"]):
            return
        if any(
            w.method.optimizer is optimizer and not self._own.isdisjoint(w._own) for w in _watches
        ):
            return  # a method was made anew on the one that steps, as in rounds of pruning
        self._elsewhere += 1
        if self._elsewhere == ELSEWHERE:
            lost = "its zeros are not kept" if method.finalized else "it does nothing"
            warn(
                f"{ELSEWHERE} steps were taken by another {type(optimizer).__name__} than the one "
                f"that method {method.name!r} follows, and none by that one: {lost}. Was the "
                "optimizer made anew? Make the method on the one that steps, and "
                "take this one off by method.remove()"
            )

    def together(self) -> None:
        """The method's state belongs to the optimizer's as it is, or as it will be loaded now."""
        self._together, self._apart = self.method.step, False
        self._told.discard("back")
        self.note_weights()

    def _loading(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        self._before = _state_of(optimizer)

    def _loaded(self, optimizer: Optimizer) -> None:
        """Note whether the optimizer is somewhere else now, and the method is not."""
        before, self._before = self._before or {}, None
        now = _state_of(optimizer)
        if now["state"] or before.get("state"):
            moved = not _equal(now["state"], before.get("state"))
        else:  # an optimizer without any, as plain SGD
            moved = self.method.step > 0 and not _equal(now["groups"], before.get("groups"))
        self._apart |= moved and self._together != self.method.step

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        method = self.method
        if self._apart and not method.finalized:
            warn(
                f"a state of the optimizer was loaded, and none of method {method.name!r}, whose "
                f"schedules go on from step {method.step}. After trial steps, and where a training "
                "goes on, load its state of the same moment too: method.load_state_dict(saved). "
                "If it is to begin on an optimizer that was trained before, load that before the "
                "method is made"
            )
        self._apart = False
        self._look_for_what_is_back()

    def note_weights(self) -> None:
        """Note how often the weights were changed, so that a change between steps is seen."""
        if self.method.finalized:
            self._versions = [tensor._version for tensor in self._tensors]

    @torch.no_grad()
    def _look_for_what_is_back(self) -> None:
        method, alive = self.method, self.method._alive
        if alive is None or self._versions is None or method.resting or "back" in self._told:
            return
        if self._versions == [tensor._version for tensor in self._tensors]:
            return
        pairs = zip(method.kept(), alive, strict=True)
        back = sum(b.count((b.norms() > 0) & (a == 0).to(b.norms().device)) for b, a in pairs)
        if back:
            self._told.add("back")
            warn(
                f"{back:,} groups that had vanished when method {method.name!r} finalized, at step "
                f"{method.finalized_at}, are not zero any more, as where weights of before were "
                "loaded; this step zeroes them again. Load the method's state of the same moment "
                "too, by method.load_state_dict(saved), or take it off by method.remove()"
            )

    def look_at_start(self) -> None:
        """At the end, which may come before the penalties had any part in the training."""
        method = self.method
        if not method._in_force:
            warn(
                f"method {method.name!r} ends after {method.step} steps, and begins after "
                f"start={method.options.start}: its penalties had no part in the training. "
                "Finalize it later, or take it off by method.remove()"
            )

    def look_at_layers_now_and_then(self) -> None:
        """After 32, 64, 128, … steps: a layer that was empty twice does not fill again."""
        steps = self.method.now
        if steps >= EARLY and steps.bit_count() == 1 and "layers" not in self._told:
            poor = emptied(self.method)
            self._tell({block: why for block, why in poor.items() if block in self._poor})
            self._poor = set(poor)

    def look_at_layers(self) -> None:
        """At the end, after which nothing fills again."""
        if "layers" not in self._told:
            self._tell(emptied(self.method))

    def _tell(self, poor: Mapping[Partition, str]) -> None:
        if poor:
            self._told.add("layers")
            [remedy, *_] = dict.fromkeys(_remedy(self.method, block) for block in poor)
            warn(
                f"method {self.method.name!r} leaves {'; '.join(poor.values())}. Where nothing "
                "leads around such a layer, as a residual connection does, the network's answer "
                f"hardly depends on its input any more. {remedy}"
            )


@torch.no_grad()
def emptied(method: "Method") -> dict[Partition, str]:
    """Layers of which a method leaves nothing, or hardly anything beside the others.

    That is less than a hundredth of their equal part. What has no matrix, such as a bias, is no
    layer.

    Returns:
        What is left of each, in words.
    """
    found = {}
    for groups, penalty in method.penalties.items():
        if not method.lasts([penalty]):
            continue
        left = [block.count(block.norms() != 0) for block in groups]
        sizes = [block.shape.numel() for block in groups]
        equal = sum(left) / max(1, sum(sizes))
        for block, alive, size in zip(groups, left, sizes, strict=True):
            matrix = any(tensor.ndim > 1 for tensor in block.tensors())
            if matrix and size > 1 and (alive == 0 or alive < POOR * equal * size):
                what = "weights" if block.single else "groups"
                of_all = f", and {100 * equal:.2g} % of all under {penalty}"
                found[block] = f"{alive:,} of {size:,} {what} in {block.name}{of_all}"
    return found


def _remedy(method: "Method", block: Partition) -> str:
    """What keeps a layer from being emptied."""
    penalty = next(p for groups, p in method.penalties.items() if block in groups.blocks)
    if getattr(penalty, "joint", False) and penalty.per == "all":
        return (
            "per='layer' gives each layer its part; so does a budget that falls slowly, such as "
            "cubic(1, 0.05, steps), mostly"
        )
    return "A smaller strength helps, or one of its own for this layer, by groups.only(…)"


def _stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for watch in list(_watches):
        watch.stepped(optimizer)


def _state_of(optimizer: Optimizer) -> dict[str, Any]:
    groups = [{**group, "params": None} for group in optimizer.param_groups]
    return {"state": dict(optimizer.state), "groups": groups}


def _equal(a: Any, b: Any) -> bool:
    """Whether two states are the same, tensors by their numbers."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and bool(torch.equal(a.to(b), b)))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and bool(a == b)

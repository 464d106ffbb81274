"""Going on with the network of what lives, and putting it back into the large one.

A network is cut in place: its parameters stay the objects they are, so an optimizer, a scheduler
and a training loop go on with them. What was cut out was read by nobody, or was a constant that
went into a bias. So the large network computes the same when all of it is zero, also what reads it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lissom.coupling.records import layers
from lissom.errors import MethodError, OptimizerError
from lissom.methods import methods_on
from lissom.parametrized import full_name
from lissom.shrinking.report import Shrinkage
from lissom.shrinking.surgery import Surgery, operate, resize_, sliced

Dims = Mapping[int, Tensor]


class SmallTraining:
    """A network that is small while it trains on; made by `lissom.train_small`.

    Attributes:
        model: the user's own, which is small until `restore`.
        optimizer: the user's own, whose state is cut with the weights.
        surgery: what was cut.
        shrinkage: the report of the cut; None after a resume.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        surgery: Surgery,
        zeros: Mapping[nn.Parameter, Tensor],
        shrinkage: Shrinkage | None = None,
    ) -> None:
        """Cut a model whose methods have ended.

        Args:
            model: of which the surgery is.
            optimizer: which steps it.
            surgery: of which nothing has to be made: biases are there.
            zeros: for each parameter, 0 where a zero stays.
            shrinkage: the report.

        Raises:
            OptimizerError: for a state that cannot be cut; nothing is changed then.
        """
        self.model, self.optimizer, self.shrinkage = model, optimizer, shrinkage
        named = dict(model.named_parameters())
        self._dims = {named[n]: dims for n, dims in surgery.keep.items() if n in named}
        self._shapes = {p: p.shape for p in self._dims}
        self._check_state()
        small = [(p, sliced(mask, self._dims.get(p, {}))) for p, mask in zeros.items()]
        self._zeros = [(p, mask) for p, mask in small if not mask.all()]
        self._methods = methods_on(optimizer)
        self.surgery = replace(surgery, biases={})  # which are folded once
        self._cuts = [Cut(model, self.surgery)]
        self._hook: RemovableHandle | None = None
        fold_(model, surgery)
        self._cut()
        hook = torch.compiler.disable(self._keep_zeros)  # of a compiled step it is no part
        self._hook = optimizer.register_step_post_hook(hook)

    def restore(self) -> None:
        """Give the model its own size again, with zeros wherever nothing lives.

        It computes the same, and the optimizer's state fits it. Methods that were made on the small
        network are taken off; their zeros stay. A second call changes nothing.

        Raises:
            MethodError: if one of them is still at work.
        """
        if self._hook is None:
            return
        others = [method for method in methods_on(self.optimizer) if method not in self._methods]
        if at_work := [repr(method.name) for method in others if not method.finalized]:
            raise MethodError(
                f"method {', '.join(at_work)} was made on the small network and is at work on it: "
                ".finalize() or .remove() it before restore()"
            )
        for method in others:
            method.remove()
        self._hook.remove()
        self._hook = None
        self._grow()
        for method in self._methods:
            method.resting = False
            if method.finalized and method._alive is not None:
                method.note_zeros()
                method._watch.note_weights()

    @contextmanager
    def large(self) -> Iterator[nn.Module]:
        """The model and the optimizer's state for a while as `restore` would leave them."""
        if self._hook is None:
            yield self.model
            return
        self._grow()
        try:
            yield self.model
        finally:
            self._cut()

    def join(self, copy: nn.Module) -> None:
        """Cut a copy of the large model, such as an average of its weights, along with it."""
        self._cuts.append(Cut(copy, self.surgery))
        self._cuts[-1].do()

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()

    def __repr__(self) -> str:
        state = "restored" if self._hook is None else "small"
        weights = sum(p.numel() for p in self.model.parameters())
        return f"<training of {type(self.model).__name__}, {state}, {weights:,} weights>"

    def _check_state(self) -> None:
        """Refuse a state of which it is not known what belongs to which weight."""
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                plain = not isinstance(value, Tensor) and not isinstance(value, dict | list | tuple)
                fits = isinstance(value, Tensor) and value.shape in (parameter.shape, (1,), ())
                if not plain and not fits:
                    told = f"shape {list(value.shape)}" if isinstance(value, Tensor) else "no shape"
                    raise OptimizerError(
                        f"the state {key!r} of {type(self.optimizer).__name__} has {told}, and "
                        f"its weight {list(parameter.shape)}, so it cannot be cut with it"
                    )

    @torch.no_grad()
    def _cut(self) -> None:
        for method in self._methods:
            method.resting = True
        self._change_state(lambda p, value: sliced(value, dict(self._dims[p])))
        for cut in self._cuts:
            cut.do()

    @torch.no_grad()
    def _grow(self) -> None:
        self._change_state(lambda p, value: grown(value, self._dims[p], self._shapes[p]))
        for cut in self._cuts:
            cut.undo()

    def _change_state(self, change: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        """Change what the optimizer keeps for each weight that is cut, or was."""
        for parameter in self._dims:
            state = self.optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = _laid_out(change(parameter, value), value)

    @torch.no_grad()
    def _keep_zeros(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, mask in self._zeros:
            parameter.mul_(mask)


class Cut:
    """A module that is cut and made whole again, in turns."""

    def __init__(self, model: nn.Module, surgery: Surgery) -> None:
        self.model, self.surgery = model, surgery
        self._back: list[Callable[[], None]] = []

    @torch.no_grad()
    def do(self) -> None:
        """Cut it."""
        surgery, back = self.surgery, self._back
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for path, module in modules.items():
            for name, parameter in module._parameters.items():
                if parameter is not None and (dims := surgery.keep.get(full_name(path, name))):
                    back.append(partial(_grow_parameter, parameter, dims, parameter.shape))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    dims = surgery.keep.get(full_name(path, name), {})
                    back.append(partial(_grow_buffer, module, name, buffer, dims))
        for path, sizes in surgery.sizes.items():
            for first in {name.partition(".")[0].partition("[")[0] for name in sizes}:
                old = getattr(modules[path], first)
                back.append(partial(setattr, modules[path], first, old))
            if isinstance(modules[path], nn.RNNBase):
                back.append(modules[path].flatten_parameters)
        for path in surgery.attention:
            parent, _, name = path.rpartition(".")
            back.append(partial(_put_back, modules[parent], name, modules[path]))
        images = [p for p in self.model.parameters() if _channels_last(p)]
        back.append(partial(_lay_out, images))
        operate(self.model, replace(surgery, reads={}), in_place=True)
        _lay_out(images)
        for path, indices in surgery.reads.items():
            layer = modules[path]
            place = layers()[type(layer)]
            assert place is not None
            read = partial(_read, place[1], indices.to(layer.weight.device))
            back.append(layer.register_forward_pre_hook(read).remove)

    @torch.no_grad()
    def undo(self) -> None:
        """Make it whole, with zeros in what was cut out."""
        for step in self._back:
            step()
        self._back.clear()


@torch.no_grad()
def fold_(model: nn.Module, surgery: Surgery) -> None:
    """Add to the biases of a large model what the small one's have more."""
    for name, added in surgery.biases.items():
        bias = model.get_parameter(name)
        kept = surgery.keep.get(name, {}).get(0, torch.arange(len(added)))
        bias.index_add_(0, kept.to(bias.device), added.to(bias))


def grown(small: Tensor, dims: Dims, shape: torch.Size) -> Tensor:
    """The inverse of `sliced`: zeros where nothing stayed."""
    for dim, indices in dims.items():
        sizes = list(small.shape)
        sizes[dim] = shape[dim]
        small = small.new_zeros(sizes).index_copy_(dim, indices.to(small.device), small)
    return small


def _channels_last(tensor: Tensor) -> bool:
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """In memory as another is."""
    last = _channels_last(like)
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def _lay_out(images: list[nn.Parameter]) -> None:
    for parameter in images:
        parameter.data = parameter.detach().contiguous(memory_format=torch.channels_last)


def _grow_parameter(parameter: nn.Parameter, dims: Dims, shape: torch.Size) -> None:
    if parameter.shape != shape:  # a tied one is met more than once
        resize_(parameter, grown(parameter.detach(), dims, shape))


def _grow_buffer(module: nn.Module, name: str, old: Tensor, dims: Dims) -> None:
    """Put a buffer back; entries that were cut out are as they were, a variance of 1, say."""
    now = module._buffers[name]
    if now is not None and now is not old:
        there = grown(torch.ones_like(now), dims, old.shape)
        old.copy_(torch.where(there != 0, grown(now, dims, old.shape), old))
        module._buffers[name] = old


def _put_back(parent: nn.Module, name: str, attention: nn.MultiheadAttention) -> None:
    """The attention that one with fewer heads stands for."""
    now = getattr(parent, name)
    if now is not attention:
        attention.train(now.training)
        attention.out_proj.in_features = attention.embed_dim
        setattr(parent, name, attention)


def _read(dim: int, indices: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a layer reads of its input."""
    x, *others = args
    return (x.index_select(dim, indices), *others)

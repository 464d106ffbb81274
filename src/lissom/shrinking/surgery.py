"""Which indices of which tensors are cut, and cutting them in a module that keeps its class."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lissom.coupling.constants import Constants, wide
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import varying
from lissom.coupling.records import layers
from lissom.coupling.resizing import NEW, entries
from lissom.coupling.sites import Contraction
from lissom.parametrized import full_name
from lissom.shrinking.attention import FewerHeads
from lissom.shrinking.decision import Decision
from lissom.shrinking.sizes import Attribute, Sizes, known_sizes, set_size

Keep = dict[str, dict[int, Tensor]]
IN_PROJECTIONS = ("in_proj_weight", "q_proj_weight")
READS = "lissom_reads"  # the buffer of a layer that reads a part of what it is given


def sliced(tensor: Tensor, dims: dict[int, Tensor]) -> Tensor:
    """The indices that stay, of each dim that is cut; zeros for those that are `NEW`."""
    for dim, indices in dims.items():
        at = indices.to(tensor.device)
        tensor = tensor.index_select(dim, at.clamp(min=0))
        if (at == NEW).any():
            tensor.index_fill_(dim, (at == NEW).nonzero()[:, 0], 0)
    return tensor.contiguous()


@dataclass
class Surgery:
    """All changes to a module, as data: they can be saved, and done again on a fresh one.

    Attributes:
        keep: for each parameter and buffer that is cut, by dim: the indices that stay,
            more than once where there are copies, and `NEW` for zeros.
        sizes: for each module by path: attributes and their new values.
        columns: for each weight, the dim and what is added along it: (to which index, from which,
            how many times), before it is cut.
        biases: what is added to biases; those that do not exist are made.
        attention: paths of `nn.MultiheadAttention` that lose heads: (those left, width of each).
        inputs: what is left of free inputs, by position: (dim, indices), where the input is
            flattened to two dims first if dim is None.
        reads: for layers by path, which of the inputs they are given they still read.
    """

    keep: Keep = field(default_factory=dict)
    sizes: dict[str, Sizes] = field(default_factory=dict)
    columns: dict[str, tuple[int, list[tuple[int, int, float | complex]]]] = field(
        default_factory=dict
    )
    biases: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    inputs: dict[int, tuple[int | None, Tensor]] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)

    def after(self, first: "Surgery | None") -> "Surgery":
        """Both operations as one on the module before the first, for saving what they leave.

        It says which shapes are left; numbers that the first added to biases are not in it.
        """
        if first is None:
            return self
        keep = {name: dict(dims) for name, dims in first.keep.items()}
        for name, dims in self.keep.items():
            for dim, indices in dims.items():
                before = keep.setdefault(name, {})
                before[dim] = before[dim][indices] if dim in before else indices
        sizes = {path: dict(new) for path, new in first.sizes.items()}
        attention = {**first.attention, **self.attention}
        for path, new in self.sizes.items():
            sizes.setdefault(path, {}).update(new)
        for path, (heads, width) in first.attention.items():
            prefix = path + ".in_proj_weight", path + ".q_proj_weight"
            again = next((self.keep[name][0] for name in prefix if name in self.keep), None)
            if again is not None:  # a FewerHeads that lost more of them
                rows = [head for head in heads for _ in range(width)]
                left = [rows[i] for i in again.tolist() if i < len(rows)]
                attention[path] = (list(dict.fromkeys(left)), width)
        biases = {**first.biases, **self.biases}
        reads = {**first.reads, **self.reads}
        return Surgery(keep, sizes, {}, biases, attention, self.inputs, reads)

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a parameter or buffer, with memory of its own."""
        new = tensor.detach().clone(memory_format=torch.contiguous_format)
        if name in self.columns:
            dim, shares = self.columns[name]
            for entry, other, times in shares:
                new.select(dim, entry).add_(tensor.detach().select(dim, other), alpha=times)
        return sliced(new, self.keep.get(name, {}))


def plan(
    model: nn.Module,
    coupler: Coupler,
    decision: Decision,
    constants: Constants,
    attributes: Iterable[Attribute] = (),
) -> Surgery:
    """The changes that a decision means for the traced module.

    Args:
        model: which was traced.
        coupler: the labels.
        decision: what goes.
        constants: where the weights of folds are taken from.
        attributes: of the user's modules, which get new values too.
    """
    surgery, times = Surgery(), decision.times
    reads = {  # the columns of what nothing is to read are zeros
        (coupler.trace.names.get(site.other), site.other_dims[0])
        for site in coupler.sites
        if isinstance(site, Contraction)
    }
    for node, name in coupler.trace.names.items():
        for axis in coupler.axes(node):
            [dim] = varying(axis)
            if (times[axis] != 1).any():
                there = entries(axis, dim, times, blank=(name, dim) in reads)
                surgery.keep.setdefault(name, {})[dim] = torch.from_numpy(there)
    for site, values in decision.folds.items():
        assert site.takes is not None
        surgery.biases[site.takes] = folded(coupler, decision, constants, site, values)
    for shares in decision.shared.values():
        for site, entry, other, factor in shares:
            name, inner = coupler.trace.names[site.other], site.other_dims[0]
            surgery.columns.setdefault(name, (inner, []))[1].append((entry, other, factor))
    surgery.sizes = known_sizes(model, coupler, times)
    for attribute in attributes:
        for path in attribute.paths:
            surgery.sizes.setdefault(path, {})[attribute.name] = attribute.new
    for path, module in model.named_modules():
        cut = [surgery.keep.get(full_name(path, name), {}).get(0) for name in IN_PROJECTIONS]
        rows = next((rows for rows in cut if rows is not None), None)
        if path and isinstance(module, nn.MultiheadAttention) and rows is not None:
            stacked = 3 if module.in_proj_weight is not None else 1
            first = rows[: len(rows) // stacked] // module.head_dim
            surgery.attention[path] = (first.unique().tolist(), module.head_dim)
    surgery.inputs = _left_of_inputs(coupler, decision)
    return surgery


def folded(
    coupler: Coupler, decision: Decision, constants: Constants, site: Contraction, values: Tensor
) -> Tensor:
    """Σ_k w_ok·c_k for the rows o that stay."""
    inner, outer = site.other_dims
    weight = wide(constants.of(site.other))
    assert outer is not None
    kernel = (
        weight.movedim((outer, inner), (0, 1)).flatten(2).sum(-1) if weight.ndim > 2 else weight
    )
    if weight.ndim == 2 and inner == 0:
        kernel = weight.T
    per_group = kernel.view(site.groups, -1, kernel.shape[1])
    added = torch.einsum(
        "goi,gi->go", per_group, values.to(weight.dtype).view(site.groups, -1)
    ).reshape(-1)
    if site.rows is not None:
        stays = ~decision.gone[coupler.labels.find(site.rows)]
        added = added[torch.from_numpy(stays)]
    return added


@torch.no_grad()
def operate(model: nn.Module, surgery: Surgery, *, in_place: bool = False) -> None:
    """Carry the changes out on a module; with `in_place`, parameters stay the objects they are."""
    modules = dict(model.named_modules(remove_duplicate=False))
    done: dict[Tensor, Tensor] = {}
    for path, module in modules.items():
        for table in (module._parameters, module._buffers):
            for name, old in list(table.items()):
                full = full_name(path, name)
                if old is None or (full not in surgery.keep and old not in done):
                    continue
                if old not in done:
                    done[old] = _cut(old, surgery.cut(full, old), in_place)
                table[name] = done[old]
    for full, added in surgery.biases.items():
        path, _, name = full.rpartition(".")
        bias = getattr(modules[path], name)
        weight = next(p for p in modules[path].parameters(recurse=False) if p is not bias)
        new = added.to(weight.device, weight.dtype)
        if bias is None:
            modules[path].register_parameter(name, nn.Parameter(new))
        else:
            bias += new
    for path, sizes in surgery.sizes.items():
        for name, size in sizes.items():
            set_size(modules[path], name, size)
        if isinstance(modules[path], nn.RNNBase):
            modules[path].flatten_parameters()
    for path, (heads, head_dim) in surgery.attention.items():
        parent, _, name = path.rpartition(".")
        attention = modules[path]
        assert isinstance(attention, nn.MultiheadAttention)
        setattr(modules[parent], name, FewerHeads(attention, heads, head_dim))
    for path, indices in surgery.reads.items():
        device = next(modules[path].parameters()).device
        modules[path].register_buffer(READS, indices.to(device))
        place = layers()[type(modules[path])]
        assert place is not None
        modules[path].register_forward_pre_hook(partial(_select, place[1]))


def _select(dim: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the layer reads of its input."""
    x, *others = args
    return (x.index_select(dim, module.get_buffer(READS)), *others)


def _cut(old: Tensor, new: Tensor, in_place: bool) -> Tensor:
    if not isinstance(old, nn.Parameter):
        return new
    if in_place:
        resize_(old, new)
        return old
    return nn.Parameter(new, requires_grad=old.requires_grad)


def resize_(parameter: nn.Parameter, new: Tensor) -> None:
    """Give a parameter numbers of another shape.

    Autograd remembers the shape of its gradient as long as any graph lives that it was in, such as
    that of a loss that somebody still holds, and forgets it with a change of type.
    """
    other = torch.float32 if new.dtype == torch.float64 else torch.float64
    parameter.data = new.new_empty(0, dtype=other)
    parameter.data, parameter.grad = new, None


def _left_of_inputs(coupler: Coupler, decision: Decision) -> dict[int, tuple[int | None, Tensor]]:
    """For each input that loses entries, by position: the dim and what is left along it."""
    found: dict[int, tuple[int | None, Tensor]] = {}
    inputs = [node for node in coupler.trace.nodes if node.op == "placeholder"]
    for node, fresh in coupler.inputs.items():
        for axis in coupler.axes(node):
            dims = varying(axis)
            dim = dims[0] if len(dims) == 1 else None
            shape = fresh.shape if dim is None else axis.shape
            stays = ~decision.gone[np.broadcast_to(axis, shape)].ravel()
            if not stays.all():
                found[inputs.index(node)] = dim, torch.from_numpy(np.flatnonzero(stays))
    return found

"""Rules for constants: operators that sum products."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from lissom.coupling import ops
from lissom.coupling.ops import Call, concrete
from lissom.shrinking.constants import NAN, Constants, Known, rule, uniform, without_nan

Product = Callable[[Tensor, Tensor], Tensor]


@rule("linear")
def linear(k: Constants, op: Call) -> Known:
    """y = x Wᵀ + b."""
    return _layer(k, op, op["input"], op["weight"], op["bias"], F.linear)


@rule("addmm")
def addmm(k: Constants, op: Call) -> Known:
    """y = b + x W."""
    if op["alpha"] != 1 or op["beta"] != 1:
        return None
    return _layer(k, op, op["mat1"], op["mat2"], op["self"], torch.matmul)


@rule("matmul", "mm", "bmm")
def matmul(k: Constants, op: Call) -> Known:
    """A·B; of two activations only zeros, since the sum may be over positions."""
    a, b = op["self"], op["other"] or op["mat2"]
    return _zeros_alone(k, [a, b], _layer(k, op, a, b, None, torch.matmul))


@rule("einsum")
def einsum(k: Constants, op: Call) -> Known:
    """One or two factors."""
    parts = list(op["tensors"])
    if len(parts) != 2:
        return k.all_known(op)  # type: ignore[no-any-return]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum(str(op["equation"]), a, b)

    if all(k.get(part) is None for part in parts):
        return None
    return _zeros_alone(k, parts, _product(k.of(parts[0]), k.of(parts[1]), product))


@rule(*ops.CONVOLUTIONS)
def convolution(k: Constants, op: Call) -> Known:
    """One number for each output channel that sees constants alone, and no padding beside them."""
    spatial = ops.CONVOLUTIONS[op.name]
    return _convolution(k, op, spatial, ops.pads(op), int(concrete(op["groups"])), transposed=False)


@rule(*ops.TRANSPOSED)
def transposed_convolution(k: Constants, op: Call) -> Known:
    """As a convolution; a constant input leaves a pattern of overlaps, so only zeros are known."""
    spatial = ops.TRANSPOSED[op.name]
    return _convolution(k, op, spatial, True, int(concrete(op["groups"])), transposed=True)


@rule("scaled_dot_product_attention")
def attention(k: Constants, op: Call) -> Known:
    """A weighted mean of equal values is that value; a mask may leave no key, and then zero."""
    value = k.get(op["value"])
    out = op.shape
    if value is None or float(concrete(op["dropout_p"]) or 0):
        return None
    first = value[..., :1, :]
    known = torch.where((value == first).all(-2, keepdim=True), first, NAN)
    if op["attn_mask"] is not None:
        known = torch.where(known == 0, known, NAN)
    if op["enable_gqa"] and len(out) > 2:
        known = known.repeat_interleave(out[-3] // known.shape[-3], -3)
    return known.expand(out)


@rule("embedding")
def embedding(k: Constants, op: Call) -> Known:
    """A column that is the same for all words."""
    table = k.get(op["weight"])
    if table is None:
        return None
    return torch.where((table == table[:1]).all(0), table[0], NAN).expand(op.shape)


@rule("index", "index_select")
def index(k: Constants, op: Call) -> Known:
    """Known numbers pick known entries; unknown ones pick zeros where there is nothing else."""
    x = k.get(op.first)
    if x is None:
        return None
    picks = [op["index"]] if op.name == "index_select" else op["indices"]
    if all(k.get(pick) is not None for pick in picks if pick is not None):
        result: Tensor = k.run(op)
        return result
    return None


@rule(*ops.RECURRENT)
def recurrent(k: Constants, op: Call) -> Any:
    """Units whose candidate gate never moves, from a zero state: zero for ever."""
    value = op.node.meta["val"]
    params, each = list(op["params"]), 4 if op["has_biases"] else 2
    width = int(value[1].shape[-1])
    states = op["hx"] if isinstance(op["hx"], list | tuple) else [op["hx"]]
    directions = 2 if op["bidirectional"] else 1
    gate = {"lstm": 2, "gru": 2, "rnn_tanh": 0}[op.name]
    if k.get(params[1]) is None or k.of(params[1]).shape[-1] != width:
        return [None for _ in value]
    still = []
    for i in range(0, len(params), each):
        rows = [k.of(p).reshape(ops.RECURRENT[op.name], width, -1) for p in params[i : i + each]]
        zero = torch.stack([(r[gate] == 0).all(-1) for r in rows]).all(0)
        for state in states:
            zero &= (k.of(state)[i // each] == 0).reshape(-1, width).all(0)
        still.append(torch.where(zero, 0.0, NAN).double())
    shapes = [[int(size) for size in part.shape] for part in value]
    final = torch.stack(still).view(len(still), *[1] * (len(shapes[1]) - 2), width)
    top = torch.cat(still[-directions:]).expand(shapes[0])
    return [top, *(final.expand(shape) for shape in shapes[1:])]


def _zeros_alone(k: Constants, factors: list[fx.Node], known: Known) -> Known:
    if known is None or any(map(k.fixed, factors)):
        return known
    return torch.where(known == 0, 0.0, NAN).double()


def _layer(k: Constants, op: Call, x: Any, weight: Any, bias: Any, product: Product) -> Known:
    shift = k.of(bias) if bias is not None else None
    a, b = k.of(x), k.of(weight)
    if k.get(x) is None and k.get(weight) is None:
        return None
    result = _product(_compact_rows(a), b, product)
    if shift is not None:
        result = result + shift
    return result.expand(op.shape)


def _product(a: Tensor, b: Tensor, product: Product) -> Tensor:
    """Σ_k a_k·b_k, unknown where one factor is unknown and the other not zero."""
    unknown = [x.isnan() for x in (a, b)]
    bad = product(unknown[0].float(), (b != 0).float())  # NaN is not zero
    if unknown[1].any():
        bad += product((a != 0).float(), unknown[1].float())
    if bool((bad > 0).all()):
        return torch.full((), NAN, dtype=torch.float64).expand(bad.shape)
    if bool(unknown[0].all()):
        return torch.where(bad > 0, NAN, 0.0).double()
    return torch.where(bad > 0, NAN, product(without_nan(a).double(), without_nan(b).double()))


def _convolution(
    k: Constants, op: Call, spatial: int, pads: bool, groups: int, *, transposed: bool
) -> Known:
    x, weight, bias = k.of(op["input"]), k.get(op["weight"]), op["bias"]
    if weight is None:
        return None
    first = uniform(x, tuple(range(-spatial, 0))).flatten(-spatial - 1)  # [batch, channels]
    rows = first.reshape(-1, first.shape[-1])
    channels = torch.where((rows == rows[:1]).all(0), rows[0], NAN)
    if pads:
        channels = torch.where(channels == 0, channels, NAN)
    read = channels.view(groups, -1)  # [groups, in]
    touched = _by_group(k.nonzero(op["weight"]).flatten(2).any(-1), groups, transposed)
    bad = torch.einsum("goi,gi->go", touched.float(), read.isnan().float()).reshape(-1) > 0
    if bool(bad.all()):
        return None
    size = _by_group(weight.flatten(2).sum(-1, dtype=torch.float64), groups, transposed)
    known = torch.einsum("goi,gi->go", size, without_nan(read).double()).reshape(-1)
    result = torch.where(bad, NAN, known)
    if bias is not None:
        result = result + k.of(bias)
    return result.view(-1, *[1] * spatial).expand(op.shape)


def _by_group(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """[out, in/groups], or [in, out/groups] if transposed, as [groups, out/groups, in/groups]."""
    parts = weight.view(groups, -1, weight.shape[1])
    return parts.transpose(1, 2) if transposed else parts


def _compact_rows(x: Tensor) -> Tensor:
    """Size 1 along leading dims that are an expansion."""
    for dim in range(x.ndim - 1):
        if x.stride(dim) == 0 and x.shape[dim] > 1:
            x = x.narrow(dim, 0, 1)
    return x

"""Operators by what they do to the dims of their tensors, and calls with named arguments."""

import operator
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx

# Each output element depends on the input elements at its own place, after broadcasting.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add addcdiv addcmul alias alpha_dropout asin asinh atan atan2 atanh bitwise_and
    bitwise_not bitwise_or bitwise_xor bool ceil celu clamp clamp_max clamp_min clip clone
    contiguous copy cos cosh detach div divide double dropout elu eq erf erfc exp exp2 expm1
    feature_alpha_dropout feature_dropout float floor floor_divide fmod full_like ge gelu
    greater greater_equal gt half hardshrink hardsigmoid hardswish hardtanh hypot isinf isnan le
    leaky_relu lerp less less_equal lift_fresh lift_fresh_copy log log10 log1p log2 log_sigmoid
    logical_and logical_not logical_or logical_xor lt masked_fill maximum minimum mish mul multiply
    nan_to_num ne neg negative not_equal ones_like positive pow reciprocal relu relu6 remainder
    round rrelu rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softshrink softsign
    sqrt square sub subtract tan tanh tanhshrink threshold to trunc true_divide type_as where
    xlogy zeros_like __and__ __or__ _to_copy
    """.split()
)

# They read the first input alone, whatever else they are given.
OF_THE_FIRST = frozenset("type_as to expand_as view_as reshape_as".split())

# The output's elements are the input's, elsewhere: executed on the labels themselves.
MOVEMENT = frozenset(
    """
    T adjoint chunk expand expand_as flatten flip mH mT movedim moveaxis narrow numpy_T permute
    pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape reshape_as roll rot90
    select slice split split_with_sizes squeeze swapaxes swapdims t tensor_split tile transpose
    unbind unflatten unsafe_chunk unsafe_split unsqueeze view view_as channel_shuffle
    """.split()
)

# Each channel on its own, over its trailing spatial dims.
POOLING = {
    f"{name}{dims}d": dims
    for dims in (1, 2, 3)
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
}
UPSAMPLING = {
    **{f"upsample_nearest{dims}d": dims for dims in (1, 2, 3)},
    **{f"_upsample_nearest_exact{dims}d": dims for dims in (1, 2, 3)},
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2,
    "upsample_trilinear3d": 3,
}

# One number from all along some dims. Zeros change a sum or a norm in nothing but its rounding.
SUMS = frozenset("sum linalg_vector_norm".split())
REDUCTIONS = SUMS | frozenset("mean amax amin var std prod logsumexp all any".split())

# Along one dim, each output from all or some of the inputs.
MIXING = frozenset("softmax log_softmax _softmax _log_softmax cumsum cumprod logcumsumexp".split())

CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}

# Recurrent layers, and how many gates are stacked in their weights.
RECURRENT = {"lstm": 4, "gru": 3, "rnn_tanh": 1}


# Tensors that may lie in the memory of their first argument, besides those of in-place operations.
SHARING = MOVEMENT | frozenset(
    "getitem alias detach to type_as contiguous dropout feature_dropout alpha_dropout".split()
)

SYMBOLIC = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}


@dataclass(frozen=True)
class Call:
    """One operation of a graph, its arguments by the names of torch's schema.

    Attributes:
        node: its place in the graph.
        name: the operator's name without overload and without the underscore of in-place twins.
        arguments: as given, or the schema's defaults.
    """

    node: fx.Node
    name: str
    arguments: dict[str, Any]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments.get(argument)

    @property
    def first(self) -> Any:
        """The first argument."""
        return next(iter(self.arguments.values()), None)

    def on(self, first: torch.Tensor) -> Any:
        """The operation itself on another first argument, its sizes as they are in the trace."""
        source = self.first

        def value(node: fx.Node) -> Any:
            return first if node is source else concrete(node)

        target: Any = self.node.target
        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), value)
        return target(*args, **kwargs)

    @property
    def tensors(self) -> list[fx.Node]:
        """All inputs that are tensors."""
        return [node for node in self.node.all_input_nodes if is_tensor(node)]

    @property
    def shape(self) -> list[int]:
        """Of the result, which is one tensor."""
        return [int(size) for size in self.node.meta["val"].shape]

    @property
    def shares(self) -> bool:
        """Whether its result may lie in the memory of its first argument."""
        if self.in_place or self.name in SHARING:
            return True
        target = self.node.target
        overload = isinstance(target, torch._ops.OpOverload)
        return overload and any(r.alias_info for r in target._schema.returns)  # type: ignore[union-attr]

    @property
    def in_place(self) -> bool:
        """Whether it writes its result over its first argument."""
        target = self.node.target
        return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def call(node: fx.Node) -> Call:
    """A `call_function` node with named arguments; operators outside aten keep their prefix."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):  # arithmetic of sizes, control flow
        name = getattr(target, "__name__", str(target))
        name = f"python.{name}" if isinstance(target, BuiltinFunctionType) else name
        name = "getitem" if target is operator.getitem else name
        return Call(node, name, {str(i): given for i, given in enumerate(node.args)})
    namespace, _, name = target._schema.name.partition("::")
    if not name.startswith("__"):
        name = name.removesuffix("_")
    arguments = {}
    for i, argument in enumerate(target._schema.arguments):
        given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        if (
            i >= len(node.args)
            and argument.name not in node.kwargs
            and argument.has_default_value()
        ):
            given = argument.default_value
        arguments[argument.name] = given
    return Call(node, name if namespace == "aten" else f"{namespace}::{name}", arguments)


def pads(op: Call) -> bool:
    """Whether a convolution sums zeros in beside its input."""
    padding = concrete(op["padding"])
    return padding != "valid" and (isinstance(padding, str) or any(padding))


def is_tensor(node: object) -> bool:
    """Whether a node of the graph stands for one tensor."""
    if not isinstance(node, fx.Node):
        return False
    return node.op == "get_attr" or isinstance(node.meta.get("val"), torch.Tensor)


def concrete(argument: Any) -> Any:
    """An argument with numbers in place of nodes that stand for sizes, as they are in the trace."""

    def value(node: fx.Node) -> Any:
        known = node.meta.get("val")
        for symbolic, plain in SYMBOLIC.items():
            if isinstance(known, symbolic):
                return plain(known)
        return known

    return fx.node.map_arg(argument, value)

"""Tensors made of numbers alone: filled, by a formula, or not at all."""

from typing import Any

from torch import fx

from lissom.coupling.constants import Constants, Known, continuous, number, spread
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.operators.elementwise import Elementwise
from lissom.coupling.ops import Call, concrete
from lissom.coupling.records import Operator, operator
from lissom.coupling.resizing import Cut

FILLED = {"zeros": 0, "ones": 1, "full": None}


def filled(call: Call) -> Known:
    """One number throughout, whatever the size."""
    value = FILLED[call.name.removeprefix("new_").removesuffix("_like")]
    x = number(concrete(call["fill_value"]) if value is None else value)
    return spread(x if continuous(call.result) else x.to(call.result.dtype), call)


@operator("zeros_like", "ones_like", "full_like")
class FilledLike(Elementwise):
    """One number in the shape of another tensor."""

    def constant(self, k: Constants, call: Call) -> Known:
        return filled(call)


@operator("empty_like")
class EmptyLike(Elementwise):
    """The shape of another tensor, to be written to."""

    def constant(self, k: Constants, call: Call) -> Known:
        return None


@operator("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")
class Filled(Operator):
    """One number throughout: any size will do that is no size of the inputs."""

    written = True

    def couple(self, c: Coupler, call: Call) -> Axes:
        return c.free(call.shape, [d for d, n in enumerate(call["size"]) if isinstance(n, int)])

    def constant(self, k: Constants, call: Call) -> Known:
        return filled(call)

    def rewrite(self, cut: Cut) -> None:
        if cut.left() != cut.was():
            cut.set("size", cut.shape_of(cut.given("size")))


@operator("empty", "new_empty")
class Empty(Filled):
    """A shape to be written to."""

    def constant(self, k: Constants, call: Call) -> Known:
        return None


@operator(
    *"""
    arange range linspace logspace eye scalar_tensor hann_window hamming_window blackman_window
    bartlett_window kaiser_window fft_fftfreq fft_rfftfreq
    """.split()
)
class Made(Operator):
    """Numbers by a formula: some of them can go, and the others are kept as they are."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        if any(isinstance(given, fx.Node) for given in call.arguments.values()):
            return ()  # as many as the input has
        return c.free(call.shape, range(len(call.shape)))

    def rewrite(self, cut: Cut) -> None:
        if cut.left() == cut.was():
            return
        target: Any = cut.call.node.target
        cut.keep(target(*cut.call.node.args, **cut.call.node.kwargs))

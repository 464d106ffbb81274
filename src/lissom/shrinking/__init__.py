"""A smaller network that computes what the sparse one did."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from lissom.arguments import as_annotated, whole
from lissom.coupling import Trace
from lissom.errors import LissomError, warn
from lissom.methods import require_plain
from lissom.methods.optimizers import stepping_optimizer
from lissom.parametrized import has_norms
from lissom.running import ExampleInputs, Inputs, as_inputs, require_numbers
from lissom.shrinking.attributes import warn_of_methods
from lissom.shrinking.case import Case
from lissom.shrinking.living import living
from lissom.shrinking.report import Shrinkage
from lissom.shrinking.selection import Selected
from lissom.shrinking.small import SmallTraining
from lissom.shrinking.surgery import Surgery, operate

__all__ = ["Shrinkage", "SmallTraining", "Surgery", "operate", "shrink", "train_small"]


@as_annotated(LissomError, "model", "example_inputs", "verify")
def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    round_to: int = 1,
    fold: bool = True,
    inputs: bool = False,
    select: bool = False,
    in_place: bool = False,
    verify: bool | Iterable[ExampleInputs] = True,
    as_graph: bool | None = None,
) -> nn.Module:
    """Remove every unit that cannot change the output, and check that nothing else changed.

    A unit goes if everything that reads it finds it zero, or constant where a bias can take the
    constant, or multiplies it by zeros in all rows that stay. This is decided by rules on the
    traced graph, for all inputs; the check on fresh random inputs guards the implementation. It
    does not matter what made the zeros: an algorithm of lissom, torch.nn.utils.prune, or a mask.

    Args:
        model: any module that `torch.export` can read. It is left as it is, unless `in_place`.
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
        round_to: leave a multiple of this many units in each layer where there are so many;
            widths that are multiples of 8 or 16 are often faster.
        fold: whether units that are constant but not zero (a bias was left in) are folded into the
            biases of the layers that read them. Otherwise they stay.
        inputs: whether entries of the inputs that nothing reads may go too; the small network then
            starts with a selection of them.
        select: whether dense and convolution layers may also leave out inputs that live, where all
            their own weights on them are zero; they then select what they read. Fewer weights and
            operations, for a copy of the input.
        in_place: cut the model itself; its parameters stay the same objects, so an optimizer may go
            on (`small.shrinkage.slice_optimizer` cuts its moments).
        verify: True for random inputs like example_inputs, also at a larger resolution where the
            model takes one; inputs of your own to be checked besides; False for example_inputs
            alone.
        as_graph: True for the traced graph as the result; False for the model's own class, even if
            less can be removed; None for the graph only where the own class cannot express it.

    Returns:
        The small module, in the mode the model is in, with its report as `small.shrinkage`.

    Raises:
        GroupError: if the model cannot be traced on example_inputs.
        LissomError: if an option has an impossible value, or the model is random.
    """
    _check_options(model, round_to, in_place, as_graph)
    if in_place:
        _check_in_place(model)
    if select and as_graph:
        raise LissomError(
            "select=True lets layers select what they read, and as_graph=True gives a graph "
            "without layers: choose one"
        )
    args = as_inputs(example_inputs)
    case = Case(model, example_inputs, verify, fold, inputs, round_to)
    found = case.found(as_graph, in_place)
    if select and not found.as_graph:
        found = case.reading_less(found)
    result, report = found.small, case.report(found)
    if not found.as_graph:
        if as_graph:
            warn(
                f"as_graph=True asks for the traced graph of {type(case.model).__name__}, which "
                "cannot be cut so that it computes the same: the result is of its own class"
            )
        warn_of_methods(case.model, found.small, case.likely, case.chosen)
    if in_place:
        operate(model, found.surgery, in_place=True)
        result = model
        if found.surgery.inputs:
            result = Selected(model, found.surgery.inputs, args.kwargs)
    result.training = model.training  # each submodule of a copy has its own mode already
    object.__setattr__(result, "shrinkage", report)
    return result


def shrunk(
    model: nn.Module, example_inputs: Inputs, traced: Trace, *, inputs: bool = False
) -> nn.Module:
    """`shrink` with its defaults of a model that is traced already, for a look at the result.

    It is checked on the example inputs alone, and has no report.
    """
    _check_options(model, 1, False, None)
    return Case(model, example_inputs, False, True, inputs, 1, traced).found().small


@as_annotated(LissomError, "model", "optimizer", "example_inputs")
def train_small(
    model: nn.Module, optimizer: Optimizer, example_inputs: ExampleInputs
) -> SmallTraining:
    """Train on with what lives, so that steps cost the less, the more has died.

        method.finalize()                              # from here on zeros stay
        with lissom.train_small(net, opt, x):
            …                                          # your loop, with net and opt as before
        # net is as large as before, with zeros wherever nothing lives

    Units that the zeros of methods have killed are cut out of the model itself and of the
    optimizer's state, as `shrink` removes them; constants go into biases that are there. What a
    method keeps at zero in between stays zero. Parameters stay the objects they are; what holds
    copies of them, as DistributedDataParallel does, is made anew inside and afterwards, and an
    average is cut along by `join`. A zero that no method keeps is not taken for dead.

    Args:
        model: any module that `torch.export` can read. Where its code does not follow the sizes of
            its tensors, less is cut.
        optimizer: that steps it. Its methods have ended: `method.finalize()`.
        example_inputs: as of `shrink`.

    Returns:
        The handle: `restore()`, or the end of the `with`, gives the model its own size again, and
        it computes the same. `shrinkage` reports what was cut.

    Raises:
        MethodError: for a method that is still at work.
        OptimizerError: for an optimizer whose state cannot be cut, such as Adafactor's.
        GroupError: if the model cannot be traced on example_inputs.
        LissomError: for a model that cannot be cut in place. All of them before anything is
            changed.
    """
    _check_options(model, 1, True, None)
    _check_in_place(model)
    optimizer = stepping_optimizer(optimizer)
    zeros, surgery, report = living(model, optimizer, example_inputs)
    return SmallTraining(model, optimizer, surgery, zeros, report)


def _check_in_place(model: nn.Module) -> None:
    if has_norms(model):
        raise LissomError(
            "in place, parameters stay the objects they are, and this model computes weights from "
            "others: torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _check_options(model: nn.Module, round_to: int, in_place: bool, as_graph: bool | None) -> None:
    require_plain(model, "shrink")
    require_numbers(model)
    if isinstance(model, Selected):
        raise LissomError(
            "this network starts with a selection of its inputs already: shrink its .net, on "
            "inputs of the size that is left"
        )
    if not whole(round_to, least=1):
        raise LissomError(f"round_to is a whole number of units, 1 or more; got {round_to!r}")
    if in_place and as_graph:
        raise LissomError(
            "in_place=True cuts the model itself and as_graph=True makes another module of it: "
            "choose one"
        )

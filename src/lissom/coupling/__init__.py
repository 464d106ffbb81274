"""Which slices of which tensors are coupled through a network, and so must go together."""

from functools import partial

from torch import nn

from lissom.arguments import as_annotated
from lissom.coupling import operators as _operators  # fills the table of records
from lissom.coupling.coupler import Coupler
from lissom.coupling.parametrized import of_parameters
from lissom.coupling.pins import Pin, pins
from lissom.coupling.trace import Trace, trace
from lissom.coupling.units import Family, families, groups_of, without_norm
from lissom.errors import GroupError
from lissom.groups import Groups, Member, Role
from lissom.parametrized import REMEDY, plain
from lissom.running import ExampleInputs

__all__ = [
    "Coupler",
    "Family",
    "Member",
    "Pin",
    "Role",
    "Trace",
    "channels",
    "couple",
    "families",
    "heads",
    "neurons",
    "pins",
    "trace",
    "units",
    "without_norm",
]

del _operators


def couple(traced: Trace, *, inputs: bool = False) -> Coupler:
    """Label every dim of every tensor of a trace."""
    return Coupler(traced, inputs=inputs)


@as_annotated(GroupError, "model", "example_inputs")
def units(model: nn.Module, example_inputs: ExampleInputs, *, inputs: bool = False) -> Groups:
    """All coupled units of a model: `channels`, `neurons` and `heads` together.

    Args:
        model: any module that `torch.export` can read; neither it nor its mode is changed. Its
            hooks run along, on torch's stand-ins for tensors (FakeTensor).
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
        inputs: whether the entries of the inputs (pixels, samples, features) are units too. Every
            unit's norm is then that of the weights that read it, not of those that make it: so
            the norms of all of them are disjoint.

    Raises:
        GroupError: if the model cannot be traced on example_inputs, or has no unit to remove.
    """
    return _of_kind("units", model, example_inputs, inputs)


@as_annotated(GroupError, "model", "example_inputs")
def channels(model: nn.Module, example_inputs: ExampleInputs, *, inputs: bool = False) -> Groups:
    """Every channel that convolutions make or read is a group, with all that is coupled to it.

    One group is a row of each convolution that writes the channel (their norm is the group's), the
    biases and normalisations (set to zero with it), and the columns of all layers that read it.
    Channels that are added up, as in residual networks, are one.

    Args:
        model: any module that `torch.export` can read; neither it nor its mode is changed.
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
        inputs: see `lissom.coupling.units`.

    Raises:
        GroupError: if the model cannot be traced on example_inputs, or has no channels to remove.

    Source: Formanek & Hadházi, section 3 (channel-wise), for coupled layers.
    """
    return _of_kind("channels", model, example_inputs, inputs)


@as_annotated(GroupError, "model", "example_inputs")
def neurons(model: nn.Module, example_inputs: ExampleInputs, *, inputs: bool = False) -> Groups:
    """Every neuron of dense, recurrent and embedding layers is a group; see `channels`.

    Args:
        model: any module that `torch.export` can read; neither it nor its mode is changed.
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
        inputs: see `lissom.coupling.units`.

    Raises:
        GroupError: if the model cannot be traced on example_inputs, or has no neurons to remove.
    """
    return _of_kind("neurons", model, example_inputs, inputs)


@as_annotated(GroupError, "model", "example_inputs")
def heads(model: nn.Module, example_inputs: ExampleInputs, *, inputs: bool = False) -> Groups:
    """Every attention head is a group: its rows of queries, keys and values; see `channels`.

    Query heads that share keys and values (grouped-query attention) are one group.

    Args:
        model: any module that `torch.export` can read; neither it nor its mode is changed.
        example_inputs: one input tensor, a tuple of arguments, or a dict of keywords; a batch of 2
            or more is best.
        inputs: see `lissom.coupling.units`.

    Raises:
        GroupError: if the model cannot be traced on example_inputs, or has no heads to remove.
    """
    return _of_kind("heads", model, example_inputs, inputs)


def _of_kind(kind: str, model: nn.Module, example_inputs: ExampleInputs, inputs: bool) -> Groups:
    if not isinstance(model, nn.Module):
        raise GroupError(f"a model is a torch.nn.Module, got {type(model).__name__}: {model!r}")
    net = plain(model)
    coupler = couple(trace(net, example_inputs), inputs=inputs)
    found = families(coupler, net)
    own = found if net is model else of_parameters(found, model)
    try:
        return groups_of(kind, own, partial(pins, coupler))
    except GroupError as error:
        if len(own) == len(found):
            raise
        raise GroupError(
            f"{error}; zeros of what weights are computed from would make none of these: {REMEDY}"
        ) from None

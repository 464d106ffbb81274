"""Groups that the shapes of parameters give, or numbers of one's own: no coupling is looked for."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, shown, whole
from lissom.errors import GroupError, nearest
from lissom.groups.choosing import Groups
from lissom.groups.members import Member
from lissom.groups.partitions import Partition
from lissom.parametrized import clean, computed, full_name, owner_of

WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@as_annotated(GroupError, "model")
def weights(model: nn.Module, *, biases: bool = False) -> Groups:
    """Every weight is a group of its own: unstructured sparsity.

    Takes each parameter with two or more dims (of linear, convolution, attention, recurrent and
    embedding layers) and leaves biases and the scales of normalisations alone; of a weight norm
    w = g·v/‖v‖ the direction v, not the gain g.

    Args:
        model: any module; tied parameters are taken once.
        biases: whether parameters named bias (with Keras' meaning: every trainable weight that is
            added) are groups too.

    Raises:
        GroupError: if the model has no such parameter.
    """
    return Groups("weights", _cut(model, _each, least=2, biases=biases))


@as_annotated(GroupError, "model")
def kernels(model: nn.Module) -> Groups:
    """Every k-d kernel of a convolution, w[out, in, :, …], is a group.

    Zero kernels cut the connection of one input channel to one output channel.

    Args:
        model: any module with convolutions in 1, 2 or 3 dims, transposed or not.

    Raises:
        GroupError: if the model has no convolution.

    Source: Formanek & Hadházi eq. 12.
    """
    convolutions = (nn.modules.conv._ConvNd,)
    return Groups("kernels", _cut(model, _kernels, least=3, owners=convolutions))


@as_annotated(GroupError, "model")
def columns(model: nn.Module) -> Groups:
    """Every column of a dense layer, all weights that read one of its inputs, is a group.

    Where `neurons` follows a number through the whole network, this looks at one layer: of a
    flattened image each pixel of each channel is an input of its own.

    Args:
        model: any module with `nn.Linear` layers.

    Raises:
        GroupError: if the model has no dense layer.

    Source: Louizos, Welling & Kingma 2018, section 4.1 (the inputs of dense layers).
    """
    return Groups("columns", _cut(model, _columns, least=2, owners=(nn.Linear,)))


@as_annotated(GroupError, "model", "shape")
def tiles(model: nn.Module, shape: tuple[int, int] = (4, 4)) -> Groups:
    """Every h × w tile of a matrix is a group; those at its edges may be smaller.

    A convolution is the matrix [out, in·k·k]; so is every parameter with more than two dims, its
    first dim the rows (of a transposed convolution these are inputs).

    Args:
        model: any module; parameters are those of `weights`.
        shape: (h, w), rows and columns of a tile.

    Raises:
        GroupError: if the model has no such parameter, or the shape is none.
    """
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(whole(n, least=1) for n in shape):
        raise GroupError(f"a tile has rows and columns, as in shape=(4, 4); got {shape!r}")
    height, width = shape

    def of_tiles(name: str, parameter: nn.Parameter) -> Member:
        rows, columns = len(parameter), parameter[:1].numel()
        across = -(-columns // width)
        row, column = torch.arange(rows) // height, torch.arange(columns) // width
        numbers = (row[:, None] * across + column).view(parameter.shape)
        return _numbered(name, parameter, numbers, -(-rows // height) * across)

    return Groups("tiles", _cut(model, of_tiles, least=2))


@as_annotated(GroupError, "model", "run")
def blocks(model: nn.Module, run: int) -> Groups:
    """Every weight is a group, and each run of neighbours can have a budget: N:M sparsity.

    Neighbours are along the inputs of one output, in the rows of the matrix that `tiles` takes a
    parameter for; the last run of a row may be shorter.

    Args:
        model: any module; parameters are those of `weights`.
        run: M, how many neighbours share a budget.

    Raises:
        GroupError: if the model has no such parameter, or the run is no count.
    """
    if not whole(run, least=1):
        raise GroupError(f"a run of neighbours is a whole number, 1 or more; got {run!r}")
    return Groups("weights", _cut(model, _each, least=2, run=run))


@as_annotated(GroupError, "model", "numbers")
def partition(
    model: nn.Module, numbers: Mapping[str | nn.Parameter, Tensor], *, kind: str = "groups"
) -> Groups:
    """Groups of one's own: a number for every entry, and what has one number is one group.

        rows = torch.arange(len(net.fc1.weight))
        lissom.partition(net, {"fc1.weight": rows[:, None], "fc1.bias": rows})

    Args:
        model: any module.
        numbers: {parameter, or its name: the group of each of its entries}. Numbers are 0, 1, 2, …
            without a gap, −1 is for entries of no group, and their shape is broadcast to the
            parameter's. A group may run through several parameters.
        kind: what a group is called where groups are printed.

    Returns:
        Groups whose norms are one tensor, in the order of the numbers.

    Raises:
        GroupError: for a parameter that the model does not have, or numbers that do not fit.
    """
    if not isinstance(numbers, Mapping) or not numbers:
        raise GroupError(
            f"numbers are a mapping {{parameter: its entries' groups}}, as in "
            f"{{'fc1.weight': torch.arange(300)[:, None]}}; got {shown(numbers)}"
        )
    _check_model(model)
    chosen: dict[str, tuple[nn.Parameter, Tensor]] = {}
    for key, given in numbers.items():
        name, parameter = _found(model, key)
        if name in chosen:
            raise GroupError(f"{name} is numbered twice")
        chosen[name] = parameter, _fitting(name, parameter, given)
    used = torch.cat([given.flatten() for _, given in chosen.values()]).unique()
    used = used[used >= 0]
    if not len(used):
        raise GroupError(f"no entry of {', '.join(chosen)} is of a group: all numbers are −1")
    gaps = torch.nonzero(used != torch.arange(len(used)))
    if len(gaps):
        raise GroupError(
            f"groups are numbered 0, 1, 2, … without a gap; there is a group {int(used[-1])}, and "
            f"no group {int(gaps[0])}"
        )
    members = tuple(
        _numbered(clean(name), parameter, given, len(used))
        for name, (parameter, given) in chosen.items()
    )
    owner = model.get_submodule(owner_of(next(iter(chosen)))[0])
    return Groups(kind, [Partition(members[0].name, owner, members)])


def _cut(
    model: nn.Module,
    member: Callable[[str, nn.Parameter], Member],
    *,
    least: int,
    biases: bool = False,
    owners: tuple[type[nn.Module], ...] = (nn.Module,),
    run: int | None = None,
) -> Iterator[Partition]:
    """A partition for each parameter with so many dims at least."""
    _check_model(model)
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, last = owner_of(name)
        wanted = parameter.ndim >= least or (biases and "bias" in last)
        if any(
            made.gain and name == full_name(path, made.gain) for made in computed(modules[path])
        ):
            continue  # of a weight norm, whose direction is shaped like the weight
        if wanted and isinstance(modules[path], owners):
            made = member(clean(name), parameter)
            yield Partition(made.name, modules[path], (made,), run=run)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise GroupError(f"groups are chosen from a torch.nn.Module, got {type(model).__name__}")
    if any("_flat_param" in name for name, _ in model.named_parameters()):
        raise GroupError(
            "FullyShardedDataParallel made one flat tensor of the parameters of this model: choose "
            "the groups before it wraps the model, or use DistributedDataParallel"
        )


def _each(name: str, parameter: nn.Parameter) -> Member:
    return Member(name, parameter, tuple(range(parameter.ndim)))


def _kernels(name: str, parameter: nn.Parameter) -> Member:
    return Member(name, parameter, (0, 1))


def _columns(name: str, parameter: nn.Parameter) -> Member:
    return Member(name, parameter, (1,))


def _numbered(name: str, parameter: nn.Parameter, numbers: Tensor, count: int) -> Member:
    """With the dims alone along which the numbers vary; they have as many dims as the parameter."""
    dims = tuple(dim for dim, size in enumerate(numbers.shape) if size != 1)
    return Member(name, parameter, dims, numbers.reshape([numbers.shape[d] for d in dims]), count)


def _found(model: nn.Module, key: object) -> tuple[str, nn.Parameter]:
    """The first name of a parameter in the model, and itself."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    every = {clean(name): p for name, p in model.named_parameters(remove_duplicate=False)}
    parameter = every.get(clean(key)) if isinstance(key, str) else key
    if isinstance(parameter, nn.Parameter) and parameter in names:
        return names[parameter], parameter
    if isinstance(key, str):
        raise GroupError(f"{key!r} is no parameter of this model.{nearest(key, list(every))}")
    what = f"a parameter of shape {list(key.shape)}" if isinstance(key, Tensor) else repr(key)
    raise GroupError(
        f"{what} is none of this {type(model).__name__}: give the model's own parameters, or "
        "their names"
    )


def _fitting(name: str, parameter: nn.Parameter, numbers: object) -> Tensor:
    """The numbers, with as many dims as the parameter."""
    if not isinstance(numbers, Tensor) or numbers.dtype not in WHOLE_NUMBERS:
        what = numbers.dtype if isinstance(numbers, Tensor) else repr(numbers)
        raise GroupError(f"groups are numbered by a tensor of whole numbers; {name} got {what}")
    shape = (1,) * (parameter.ndim - numbers.ndim) + tuple(numbers.shape)
    if len(shape) > parameter.ndim or any(
        n not in (1, size) for n, size in zip(shape, parameter.shape, strict=True)
    ):
        rows = [len(parameter)] + [1] * (parameter.ndim - 1)
        raise GroupError(
            f"the numbers of {name} are broadcast to its shape {list(parameter.shape)}, and "
            f"{list(numbers.shape)} is not; a number for each row has shape {rows}"
        )
    if numbers.numel() and int(numbers.min()) < -1:
        least = int(numbers.min())
        raise GroupError(f"groups are numbered from 0, with −1 for none; {name} got {least}")
    return numbers.detach().cpu().long().clone().view(shape)

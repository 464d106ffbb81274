"""Units of a network in which weights are computed from other parameters."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from lissom.coupling.units import Family
from lissom.groups import Member, Role
from lissom.parametrized import Computed, computed, full_name, vanishing


def of_parameters(found: list[Family], model: nn.Module) -> list[Family]:
    """Units that were found in `plain(model)`, as units of the model's own parameters.

    In a weight norm w = g·v/‖v‖ a unit's norm is its gain |g| = ‖w‖, and v is only cut with it. A
    family is left out if zeros of the parameters that make it would be no zeros of its weights.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    made: dict[str, tuple[str, nn.Module, Computed]] = {}
    for path, module in model.named_modules():
        here = list(computed(module))
        if any(tensor.norm for tensor in here):  # which is what `plain` takes off
            made |= {full_name(path, tensor.name): (path, module, tensor) for tensor in here}
    modules = dict(model.named_modules())
    families = []
    for family in found:
        members: list[Member] = []
        for member in family.members:
            if member.name not in made:
                members.append(replace(member, tensor=tensors[member.name]))
                continue
            path, module, tensor = made[member.name]
            own = list(_of_one(member, path, module, tensor))
            if not own:
                break
            members += own
        else:
            module = modules[family.name.rpartition(".")[0]]
            mixed = any(member.name in made for member in family.members)
            name = next(member.name for member in members if member.role is Role.NORM)
            families.append(
                replace(
                    family,
                    name=name,
                    module=module,
                    members=tuple(members),
                    read_by_weights=family.read_by_weights and not mixed,
                )
            )
    return families


def _of_one(member: Member, path: str, module: nn.Module, made: Computed) -> Iterator[Member]:
    """The slices of parameters for one of a computed tensor; none if they cannot stand for it."""

    def of(name: str, role: Role) -> Member:
        full = full_name(path, name)
        # What is computed is no column that could be scaled alone.
        reads = member.reads or role is Role.CUT
        return replace(member, name=full, tensor=module.get_parameter(name), role=role, reads=reads)

    along_gain = made.gain is not None and member.dims == (made.dim,)
    if made.source is None or (made.gain is not None and made.dim is None):
        return
    if along_gain:
        assert made.gain is not None
        yield of(made.gain, member.role)
        yield of(made.source, Role.CUT)
    elif member.role is Role.CUT:
        yield of(made.source, Role.CUT)
    elif made.gain is None and vanishing(module, made, member.dims[0]):
        yield of(made.source, member.role)

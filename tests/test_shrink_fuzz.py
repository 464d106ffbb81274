"""Random networks with arbitrary damage: no crash, no difference, nothing removed wrongly."""

from functools import cache

import pytest
import torch
from products import exhaustive, few, sampled, thinned
from random_networks import damage_, random_network
from shrink_cases import EXACT, Inputs, apart, fresh, refusals, report, traced_once
from torch import Tensor, nn

import lissom
from lissom.coupling import Family, couple, families, trace
from lissom.running import evaluating

SEEDS = thinned(range(120), 4)  # benchmarks/fuzz.py goes on to thousands
each_seed = pytest.mark.parametrize("seed", few(SEEDS, SEEDS[:8]))

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@cache
def case(seed: int) -> tuple[nn.Module, Inputs, nn.Module, list[Family]]:
    """A damaged network, its example, the small one, and all units of the large one."""
    model, example_inputs = random_network(seed)
    damage_(model, seed)
    with refusals() as refused, traced_once():
        small = lissom.shrink(model, example_inputs)
        units = families(couple(trace(model, example_inputs)), model)
    assert not refused, "decided wrongly, and put right by verification"
    return model, example_inputs, small, units


@sampled(2)
@each_seed
def test_no_difference(seed: int) -> None:
    model, example_inputs, small, _ = case(seed)
    for i in (1, 2):
        assert apart(model, small, fresh(example_inputs, 1000 * seed + i)) <= EXACT
    larger = fresh(example_inputs, 1000 * seed + 3, grow=5)
    if runs(model, larger) and not report(small).as_graph:
        assert apart(model, small, larger) <= EXACT


@sampled(4)
@each_seed
def test_no_unit_is_removed_wrongly(seed: int) -> None:
    """Every column that a layer lost: its input is a constant, or its weights in what stays zero.

    Measured in the large network, layer by layer. The constants make up what the bias gained, or
    are a multiple of another that stays for them; else, as beside zero padding, they are zero.
    """
    model, example_inputs, small, _ = case(seed)
    keep = report(small).keep
    seen = inputs_of_layers(model, [fresh(example_inputs, 1000 * seed + i) for i in (1, 2, 3)])
    for name, layer in model.named_modules():
        kept = keep.get(f"{name}.weight", {})
        if not isinstance(layer, LAYERS) or not kept or name not in seen:
            continue
        groups = getattr(layer, "groups", 1)
        weight = (
            layer.weight.detach().flatten(2).transpose(0, 1)
            if layer.weight.ndim > 2
            else (layer.weight.detach().T[..., None])
        )  # [in per group, out, kernel]
        rows = torch.zeros(weight.shape[1], dtype=torch.bool)
        rows[kept.get(0, torch.arange(len(rows)))] = True
        values = seen[name]  # [samples, channels]
        per = weight.shape[0]
        gained = torch.zeros(weight.shape[1], dtype=torch.float64)
        lost = set(range(per)) - set(kept.get(1, torch.arange(per)).tolist())
        out = weight.shape[1] // groups
        _, shares = report(small).surgery.columns.get(f"{name}.weight", (1, []))
        shared = {other: (stands, times) for stands, other, times in shares}
        for channel in (group * per + column for group in range(groups) for column in lost):
            group = channel // per
            mine = rows.clone()
            mine[: group * out] = False
            mine[(group + 1) * out :] = False
            read = weight[channel % per] * mine[:, None]
            if not read.any():
                continue
            constant = values[0, channel]
            assert (values[:, channel] - constant).abs().max() <= 1e-12, (name, channel)
            if channel % per in shared:  # a constant that stays reads its columns too
                stands, times = shared[channel % per]
                assert stands not in lost
                assert (values[:, group * per + stands] * times - constant).abs().max() <= 1e-12, (
                    name,
                    channel,
                )
                continue
            if any(getattr(layer, "padding", ())) and layer.padding_mode == "zeros":
                assert constant.abs() <= 1e-12, (name, channel, "padded")
            gained += read.sum(-1) * constant
        added = report(small).surgery.biases.get(f"{name}.bias", torch.zeros(int(rows.sum())))
        assert torch.allclose(gained[rows], added.double(), atol=1e-9), name


@each_seed
def test_what_is_zero_throughout_goes(seed: int) -> None:
    """A unit whose every slice is zero stays only as the last one of its layer."""
    _, _, small, all_units = case(seed)
    keep = report(small).keep
    for family in all_units:
        units = len(family.labels)
        zero = torch.ones(units, dtype=torch.bool)
        there = torch.zeros(units, dtype=torch.bool)
        for member in family.members:
            mine = member.index >= 0
            if isinstance(member.tensor, nn.Parameter):
                rest = [d for d in range(member.tensor.ndim) if d != member.dims[0]]
                some = (member.tensor != 0).any(rest) if rest else member.tensor != 0
                zero[member.index[mine & some]] = False
            kept = keep.get(member.name, {}).get(member.dims[0], torch.arange(len(member.index)))
            stays = torch.zeros_like(mine)
            stays[kept] = True
            there[member.index[mine & stays]] = True
        wrong = int((zero & there).sum())
        last = sum(
            k.units
            for k in report(small).kept
            if k.family == family.name and k.reason.startswith("the layer is dead")
        )
        assert wrong <= last, (family.name, report(small).kept)


@exhaustive
def test_most_networks_lose_something() -> None:
    some = SEEDS[:16]
    removed = [report(case(seed)[2]).removed > 0 for seed in some]
    assert sum(removed) > len(some) / 3


def runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        with torch.no_grad():
            model(*inputs)
    except RuntimeError:
        return False
    return True


def inputs_of_layers(model: nn.Module, inputs: list[Inputs]) -> dict[str, Tensor]:
    """What each layer reads, by channel: [samples and positions, channels]; of all calls."""
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            channel = -1 if isinstance(layer, nn.Linear) else 1

            def note(layer: nn.Module, args: Inputs, name=name, channel=channel) -> None:
                x = args[0].detach().movedim(channel, -1)
                seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).clone())

            hooks.append(layer.register_forward_pre_hook(note))
    with evaluating(model), torch.no_grad():
        for x in inputs:
            model(*x)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}

"""lissom.shrink and Torch-Pruning on the same damage: exact, wrong or crashed, how much, how long.

    pip install torch-pruning
    python benchmarks/pruners.py [--only NAME] [--busy]

The architectures are those of tests/zoo.py, in float64. A random half of the units of each family
is zeroed: completely, biases and β included ("clean"), or weights and γ alone, biases and β left in
("biases left"). Each tool is told to remove what is dead, and its result is compared with the
damaged network on fresh inputs.

lissom gets the network. Torch-Pruning has no notion of what is dead, so it is told: the families
that lissom found, and of each the dead indices of a layer, pruned by
`DependencyGraph().build_dependency`, `get_pruning_group`, `check_pruning_group` and `prune`. What
its documentation asks of a user is done for it: heads are removed through the projection that
reads them, head counts and sizes that the model's code keeps are set afterwards, bare parameters
are told with their dim, transformers' Conv1D has a customized pruner, and families that it cannot
express (heads of nn.MultiheadAttention) are not asked of it. It runs twice: all families at once,
and with an oracle that tries every family alone first and leaves out those that come out wrong.
"""

import copy
import json
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from provenance import REMOVING, Busy, idle, keep, provenance
from torch import Tensor, nn

if find_spec("torch_pruning") is None:
    raise SystemExit(
        "This comparison needs Torch-Pruning, which lissom itself does not:\n"
        "    pip install torch-pruning timm transformers torchvision"
    )
import torch_pruning as tp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import pytest  # noqa: E402
from zoo import ZOO, Entry, build  # noqa: E402

import lissom  # noqa: E402
from lissom.coupling import Family, Role, units  # noqa: E402
from lissom.running import leaves  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "pruners.json"
CODE = [*REMOVING, "tests/zoo.py", "tests/zoo_networks.py", "benchmarks/pruners.py"]
DAMAGES = ("clean", "biases left")
SECONDS = 40  # for one tool on one network
TOLERANCE = 1e-9
ROUNDING = 1e-5  # where the network itself rounds to float32 inside
HEADS = (
    "heads num_heads num_attention_heads n_heads n_head num_key_value_heads num_kv_heads".split()
)
WIDTHS = "all_head_size inner_dim attn_dim split_size embed_dim dim hidden_size".split()
ExampleInputs = tuple[Tensor, ...]
Report = dict[str, Any]


def main(
    only: Annotated[
        str | None, typer.Option(help="Run those with this in their name again.")
    ] = None,
    busy: Busy = False,
    out: Path = RESULT,
) -> None:
    """Compare the tools on every architecture, and keep the record."""
    load = idle(busy)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lissom.shrink(nn.Linear(2, 2), torch.ones(2, 2))  # the first trace loads much of torch
    packages = ("torch", "torch-pruning", "torchvision", "timm", "transformers")
    record: Report = {
        "command": "python benchmarks/pruners.py",
        "seed": 0,
        "tolerance": TOLERANCE,
        "tolerance_rounding": ROUNDING,
        "networks": [],
        **provenance(CODE, [name for name in packages if find_spec(name.replace("-", "_"))]),
    }
    done: dict[str, Report] = {}
    if only is not None and out.exists():
        old = json.loads(out.read_text())
        if old.get("code") == record["code"]:  # else all of it is to be made again
            done = {network["name"]: network for network in old["networks"]}
    for entry in ZOO:
        if only is None or only in entry.name:
            done[entry.name] = {"name": entry.name, **compare(entry)}
            record["networks"] = [done[e.name] for e in ZOO if e.name in done]
            keep(record, out, load)


def compare(entry: Entry) -> Report:
    """All tools on both damages of one architecture."""
    try:
        model, example_inputs = build(entry)
    except pytest.skip.Exception as skipped:
        return {"skipped": str(skipped)}
    found: Report = {"parameters": sum(p.numel() for p in model.parameters()), "damages": {}}
    tolerance = ROUNDING if entry.rounds else TOLERANCE
    for damage in DAMAGES:
        damaged = copy.deepcopy(model)
        try:
            families = units(damaged, example_inputs).blocks
        except lissom.errors.GroupError as error:
            return {**found, "skipped": str(error), "damages": {}}
        dead = zero_half_(families, damage)
        case = Case(damaged, example_inputs, families, dead, tolerance)
        reports = {tool: attempt(case, run) for tool, run in TOOLS.items()}
        found["damages"][damage] = {"dead": sum(int(d.sum()) for d in dead), "tools": reports}
        for tool, report in reports.items():
            print(f"{entry.name:32} {damage:12} {tool:28} {line(report)}", flush=True)
    return found


@torch.no_grad()
def zero_half_(families: tuple[Any, ...], damage: str) -> list[Tensor]:
    """Zero a random half of each family's units; returned is which."""
    generator = torch.Generator().manual_seed(0)
    dead = []
    for family in families:
        n = len(family.labels)
        gone = torch.zeros(n, dtype=torch.bool)
        gone[torch.randperm(n, generator=generator)[: n // 2]] = True
        dead.append(gone)
        if damage == "clean":
            family.scale_((~gone).double())
            continue
        for member in family.members:
            if member.role is not Role.CUT and "bias" not in member.name.rpartition(".")[-1]:
                member.tensor.mul_(member.spread((~gone).to(member.tensor)))
    return dead


class Case:
    """One damaged network, and what is known of it."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        families: tuple[Any, ...],
        dead: list[Tensor],
        tolerance: float,
    ) -> None:
        self.model, self.example_inputs, self.tolerance = model, example_inputs, tolerance
        self.families: list[tuple[Family, Tensor]] = list(zip(families, dead, strict=True))
        self.parameters = sum(p.numel() for p in model.parameters())
        generator = torch.Generator().manual_seed(1)
        self.checks = [
            tuple(fresh(x, scale, generator) for x in example_inputs) for scale in (1, 3)
        ]
        with torch.no_grad():
            self.wanted = [leaves(model(*inputs)) for inputs in self.checks]

    @torch.no_grad()
    def difference(self, small: nn.Module) -> float:
        """The largest difference on fresh inputs, relative to the largest output of each."""
        worst = 0.0
        for inputs, wanted in zip(self.checks, self.wanted, strict=True):
            got = leaves(small(*inputs))
            if [x.shape for x in got] != [x.shape for x in wanted]:
                return float("inf")
            for a, b in zip(wanted, got, strict=True):
                apart = float((a - b).abs().max().nan_to_num(float("inf")))
                worst = max(worst, apart / max(float(a.abs().max()), 1e-12))
        return worst


def fresh(x: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    if x.is_floating_point():
        return scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x.flatten()[torch.randperm(x.numel(), generator=generator)].view(x.shape)


def attempt(case: Case, run: Callable[[Case], tuple[nn.Module, Report]]) -> Report:
    """What a tool made of the network: exact, wrong or crashed."""
    report: Report = {}
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(SECONDS)
    started = time.perf_counter()
    try:
        small, found = run(case)
        report = {"seconds": time.perf_counter() - started, **found}
        report["difference"] = case.difference(small)
        left = sum(p.numel() for p in small.parameters())
        report["parameters_removed"] = case.parameters - left
        report["outcome"] = "exact" if report["difference"] <= case.tolerance else "wrong"
    except Exception as error:
        seconds = report.get("seconds", time.perf_counter() - started)
        report = {**report, "seconds": seconds, "outcome": "crashed", "message": told(error)}
    finally:
        signal.alarm(0)
    return report


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def told(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"[:300]


def line(report: Report) -> str:
    shown = f"{report['outcome']:8} {report.get('units', 0):5} units {report['seconds']:6.2f} s"
    return f"{shown} {report.get('message') or report.get('difference')}"


def by_lissom(case: Case) -> tuple[nn.Module, Report]:
    """lissom.shrink, its own verification included."""
    small = lissom.shrink(case.model, case.example_inputs)
    found = small.shrinkage
    return small, {"units": found.removed, "folded": found.folded, "as_graph": found.as_graph}


def by_torch_pruning(case: Case) -> tuple[nn.Module, Report]:
    """All families at once; one that cannot be pruned is skipped."""
    return pruned(case, [(family, dead, 0) for family, dead in case.families])


def by_oracle(case: Case) -> tuple[nn.Module, Report]:
    """Every family alone first, then those together that came out exact.

    A family may be pruned from any of its layers; the first that is exact is taken. What is exact
    alone and wrong together is left out at the end, last one first.
    """
    chosen: list[tuple[Family, Tensor, int]] = []
    counts = {"families": len(case.families), "exact": 0, "wrong": 0, "crashed": 0, "refused": 0}
    for family, dead in case.families:
        outcomes = []
        for start in range(max(1, len(roots(family)))):
            outcomes.append(alone(case, family, dead, start))
            if outcomes[-1] == "exact":
                chosen.append((family, dead, start))
                break
        counts["exact" if "exact" in outcomes else outcomes[0]] += 1
    while True:
        small, found = pruned(case, chosen)
        try:
            exact = case.difference(small) <= case.tolerance
        except Exception:
            exact = False
        if exact or not chosen:
            return small, {**found, "alone": counts}
        chosen.pop()


def alone(case: Case, family: Family, dead: Tensor, start: int) -> str:
    """The outcome of pruning one family."""
    try:
        small, found = pruned(case, [(family, dead, start)])
        if found["refused"]:
            return "refused"
        return "exact" if case.difference(small) <= case.tolerance else "wrong"
    except TimeoutError:
        raise
    except Exception:
        return "crashed"


def pruned(case: Case, chosen: list[tuple[Family, Tensor, int]]) -> tuple[nn.Module, Report]:
    """A copy of the network from which Torch-Pruning removed the dead units of these families."""
    small = copy.deepcopy(case.model)
    with torch.enable_grad():
        for parameter in small.parameters():
            parameter.requires_grad_(True)
        graph = tp.DependencyGraph().build_dependency(
            small,
            case.example_inputs,
            customized_pruners=customized(small),
            unwrapped_parameters=unwrapped(small, case),
            verbose=False,
        )
    indices = Indices(graph)
    count, refused = 0, []
    for family, dead, start in chosen:
        reason = cut(small, graph, indices, family, dead, start)
        if reason is None:
            count += int(dead.sum())
            tell_sizes(small, family, dead)
        else:
            refused.append(f"{family.name}: {reason}")
    for module in small.modules():
        if isinstance(module, nn.RMSNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
    return small, {"units": count, "refused": refused}


def cut(
    small: nn.Module,
    graph: tp.DependencyGraph,
    indices: "Indices",
    family: Family,
    dead: Tensor,
    start: int,
) -> str | None:
    """Prune one family from one of its layers; why not, if it was not pruned."""
    candidates = roots(family)[start:]
    if not dead.any():
        return None
    for name, dim, reads, unit in candidates:
        owner, _, attribute = name.rpartition(".")
        module = small.get_submodule(owner)
        if isinstance(module, nn.MultiheadAttention):
            return "the pruner of nn.MultiheadAttention removes embedding dims, not heads"
        target = module if graph.get_pruner_of_module(module) else getattr(module, attribute)
        if target not in graph.module2node:
            continue
        positions = unit_positions(target, dim, unit, dead)
        pruner = graph.get_pruner_of_module(target)
        prune = pruner.prune_in_channels if reads else pruner.prune_out_channels
        try:
            current = indices.now(target, reads, positions)
            group = graph.get_pruning_group(target, prune, current)
            if not current or not graph.check_pruning_group(group):
                return "check_pruning_group refused"
        except TimeoutError:
            raise
        except Exception as error:
            return told(error)
        indices.follow(group)
        group.prune()
        return None
    return "none of its layers is in the dependency graph"


def roots(family: Family) -> list[tuple[str, int, bool, Tensor]]:
    """The tensors from which a family can be pruned: (name, dim, whether it reads, units).

    Heads are pruned through the layer that reads them first, as Torch-Pruning's own pruners do;
    everything else by the layers that write it.
    """
    writers = {
        m.name.rpartition(".")[0]: (m.name, m.dims[0], False, m.index)
        for m in reversed(family.members)
        if m.role is Role.NORM
    }
    readers = [
        (m.name, m.dims[0], True, m.index)
        for m in family.members
        if m.role is Role.CUT and isinstance(m.tensor, nn.Parameter) and m.tensor.ndim > 1
    ]
    layers = list(writers.values())[::-1]  # the first tensor of each layer, the first layer first
    return readers[:1] + layers[:2] if family.kind == "heads" else layers[:3]


def unit_positions(target: object, dim: int, unit: Tensor, dead: Tensor) -> list[int]:
    """The indices of the dead units along a dim; an LSTM counts those of one gate."""
    gone = dead[unit.clamp(min=0)] & (unit >= 0)
    if isinstance(target, nn.LSTM):
        gone = gone[: target.hidden_size]
    return gone.nonzero().flatten().tolist()


class Indices:
    """Where the channels of each layer are after those before them were pruned."""

    def __init__(self, graph: tp.DependencyGraph) -> None:
        self.graph = graph
        self.alive: dict[tuple[str, bool], list[int]] = {}

    def of(self, target: Any, reads: bool) -> list[int]:
        graph = self.graph
        name = graph._param_to_name.get(target) or graph._module2name.get(target) or str(target)
        if (name, reads) not in self.alive:
            size = (graph.get_in_channels if reads else graph.get_out_channels)(target)
            self.alive[name, reads] = list(range(size or 0))
        return self.alive[name, reads]

    def now(self, target: Any, reads: bool, positions: list[int]) -> list[int]:
        """Where these positions of the original layer are."""
        place = {original: i for i, original in enumerate(self.of(target, reads))}
        return [place[position] for position in positions if position in place]

    def follow(self, group: Any) -> None:
        """Take a group's indices away, before it is pruned."""
        for dep, gone in group:
            target = dep.target.module
            both = [
                reads
                for reads, test in (
                    (False, self.graph.is_out_channel_pruning_fn),
                    (True, self.graph.is_in_channel_pruning_fn),
                )
                if test(dep.handler)
            ]
            if isinstance(target, nn.Module) and type(target).__module__.startswith(
                "torch_pruning"
            ):
                continue  # a split or a concatenation
            for reads in both:
                alive, away = self.of(target, reads), set(gone)
                alive[:] = [x for i, x in enumerate(alive) if i not in away]


def tell_sizes(small: nn.Module, family: Family, dead: Tensor) -> None:
    """What a user has to do by hand: the head counts and widths that the model's code keeps."""
    if family.kind != "heads":
        return
    before, left = len(dead), int((~dead).sum())
    owners = [m.name.rpartition(".")[0] for m in family.members if m.role is Role.NORM]
    paths = {owner.rpartition(".")[0] for owner in owners}
    for path in paths:
        module = small.get_submodule(path)
        old = {name: getattr(module, name, None) for name in (*HEADS, *WIDTHS)}
        groups = max(1, next((old[n] for n in HEADS if isinstance(old[n], int)), before) // before)
        heads = {before: left, before * groups: left * groups}
        for name in HEADS:
            if old[name] in heads:
                setattr(module, name, heads[old[name]])
        for name in WIDTHS:
            if isinstance(old[name], int) and old[name] % before == 0:
                setattr(module, name, old[name] // before * left)


class Conv1DPruner(tp.BasePruningFunc):
    """transformers' Conv1D, a linear layer whose weight is [inputs, outputs]."""

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        keep = [i for i in range(layer.nf) if i not in set(idxs)]
        layer.nf = len(keep)
        layer.weight = self._prune_parameter_and_grad(layer.weight, keep, 1)
        layer.bias = self._prune_parameter_and_grad(layer.bias, keep, 0)
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        keep = [i for i in range(layer.nx) if i not in set(idxs)]
        layer.nx = len(keep)
        layer.weight = self._prune_parameter_and_grad(layer.weight, keep, 0)
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.nf

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.nx


def customized(small: nn.Module) -> dict[type, tp.BasePruningFunc] | None:
    found = {type(m) for m in small.modules() if type(m).__name__ == "Conv1D"}
    return {kind: Conv1DPruner() for kind in found} or None


def unwrapped(small: nn.Module, case: Case) -> list[tuple[nn.Parameter, int]]:
    """Bare parameters with the dim along which they are pruned."""
    graph = tp.DependencyGraph()
    kinds = customized(small) or {}
    dims: dict[str, int] = {}
    for family, _ in case.families:
        for member in family.members:
            owner = small.get_submodule(member.name.rpartition(".")[0])
            known = type(owner) in kinds or graph.get_pruner_of_module(owner) is not None
            if isinstance(member.tensor, nn.Parameter) and not known:
                dims.setdefault(member.name, member.dims[0])
    parameters = dict(small.named_parameters())
    return [(parameters[name], dim) for name, dim in dims.items()]


TOOLS: dict[str, Callable[[Case], tuple[nn.Module, Report]]] = {
    "lissom": by_lissom,
    "Torch-Pruning": by_torch_pruning,
    "Torch-Pruning with an oracle": by_oracle,
}


if __name__ == "__main__":
    typer.run(main)

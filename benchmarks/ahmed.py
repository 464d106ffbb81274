"""What the networks along Ahmed's two curves are like: their inputs, answers, trees and attacks.

    python benchmarks/ahmed.py lenet300-first-layer [--data-dir DIR] [--runs DIR]
    python benchmarks/ahmed.py modrec

after `python benchmarks/curves.py` of the same name, whose networks are under --runs. Which inputs
the gated layer still reads, and accuracies under attacks, are of all points; trees, accuracies by
SNR and confusions of the dense setting, the sparse one with the least validation error, and the
knee. All are of test data. What is found goes to benchmarks/results/ahmed-STUDY.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from provenance import keep
from torch import nn
from torch.nn import functional as F

from lissom.curves import Curve, Point, Setting
from lissom.data import Dataset, ModRec
from lissom.distill import distill_to_trees
from lissom.recipes import make_data, make_model, read_record
from lissom.report import accuracy_by, adversarial_curve, confusions
from lissom.report.networks import Readers, readers, spaced

HERE = Path(__file__).parent
LAYER = "fc1.weight"  # the one with gates
ROUNDS = 30  # of boosting
LABEL = 6  # dB, of the confusions


@dataclass(frozen=True)
class Study:
    """What is particular to the data.

    Attributes:
        shape: of the inputs of LAYER, (height, width).
        attacked: how many test examples are.
        radii: of attacks that change each number by so much, in the data's units.
        clip: the least and the largest number that an input may hold.
        reach: how many columns of LAYER's inputs see one sample of the data.
    """

    shape: tuple[int, int]
    attacked: int
    radii: tuple[float, ...]
    clip: tuple[float, float] | None
    reach: int


STUDIES = {
    "lenet300-first-layer": Study((28, 28), 1000, (0, 0.02, 0.05, 0.1), (0, 1), reach=1),
    # Two convolutions with kernels of three, each on two columns of zeros: 128 samples make 132.
    "modrec": Study((16, 132), 500, (0, 0.01, 0.02, 0.05), None, reach=5),
}


def main(
    study: Annotated[str, typer.Argument(help=f"{' or '.join(STUDIES)}.")],
    data_dir: Path | None = None,
    runs: Path = Path("runs"),
) -> None:
    """Look closer at the networks of a curve."""
    if study not in STUDIES:
        raise SystemExit(f"there is no study {study!r}; known: {', '.join(STUDIES)}")
    about = STUDIES[study]
    folder = runs / study / "curve0"
    record = read_record(folder / "recipe.json")
    data = make_data(record.recipe, data_dir)

    def make_untrained(seed: int) -> nn.Module:
        return make_model(record.recipe, record.shape, record.classes, seed=seed)

    curve = counted(Curve.load(folder, make_untrained))
    best = min(curve.settings[1:], key=lambda s: (s.error, s.size(LAYER)))
    settings = {"dense": curve.settings[0], "best": best, "knee": curve.knee(LAYER).setting}
    found = {
        "study": study,
        "command": f"python benchmarks/ahmed.py {study}",
        "versions": json.loads((folder / "result.json").read_text())["versions"],
        "data": data.name,
        "inputs": [inputs(curve, one, about) for one in curve.settings],
        "patterns": [pattern(curve, point, about) for point in spaced(curve)],
        "settings": {name: looked_at(curve, one, data) for name, one in settings.items()},
        "attacks": attacks(curve, data, about),
    }
    out = HERE / "results" / f"ahmed-{study}.json"
    keep(found, out)
    print(f"{len(curve.points)} networks in {out}")


def counted(curve: Curve) -> Curve:
    """The same curve with one more size: the non-zeros of LAYER."""
    points = [
        replace(p, sizes={**(p.sizes or {}), LAYER: int(curve.tensors(p)[LAYER].count_nonzero())})
        for p in curve.points
        if not p.failed
    ]
    return replace(curve, points=tuple(points))


def inputs(curve: Curve, setting: Setting, about: Study) -> dict[str, Any]:
    """How many inputs of LAYER each seed's network reads, and how many samples those see."""
    found = [read(curve, point, about).counts for point in setting.points]
    seen = [F.max_pool1d(counts.any(0)[None].float(), about.reach, 1) for counts in found]
    return {
        "strength": setting.strength,
        "nonzeros": [int(point.size(LAYER)) for point in setting.points],
        "inputs": [int(counts.count_nonzero()) for counts in found],
        "samples": [int(samples.sum()) for samples in seen],
        "test_error": [point.test_error for point in setting.points],
    }


def pattern(curve: Curve, point: Point, about: Study) -> dict[str, Any]:
    """How many neurons read each input of LAYER, [height, width]."""
    found = read(curve, point, about)
    return {
        "strength": point.strength,
        "removed": 1 - point.size(LAYER) / (found.units * found.counts.numel()),
        "units": found.units,
        "readers": found.counts.tolist(),
    }


def read(curve: Curve, point: Point, about: Study) -> Readers:
    """How many neurons read each input of LAYER."""
    return readers(curve.tensors(point)[LAYER], about.shape)


def looked_at(curve: Curve, setting: Setting, data: Dataset) -> dict[str, Any]:
    """What trees learn from each seed's network, and of radio data its answers by SNR."""
    nets = [curve.network(point) for point in setting.points]
    found: dict[str, Any] = {"strength": setting.strength}
    found["trees"] = [distill_to_trees(net, data, rounds=ROUNDS).to_dict() for net in nets]
    print(f"strength {setting.strength}: {found['trees']}", flush=True)
    return {**found, **(by_snr(nets, data) if isinstance(data, ModRec) else {})}


def by_snr(nets: list[nn.Module], data: ModRec) -> Mapping[str, Any]:
    """Accuracies at each SNR, and the confusions of all seeds together at LABEL."""
    x, y = (part[data.test_snr == LABEL] for part in (data.test_x, data.test_y))
    return {
        "names": data.names,
        "by_snr": [accuracy_by(net, data.test_x, data.test_y, data.test_snr) for net in nets],
        "confusions": torch.stack([confusions(net, x, y) for net in nets]).sum(0).tolist(),
    }


def attacks(curve: Curve, data: Dataset, about: Study) -> dict[str, Any]:
    """Accuracies at each point under PGD, on some of the test examples."""
    order = torch.randperm(len(data.test_y), generator=torch.Generator().manual_seed(0))
    x, y = (part[order[: about.attacked]] for part in (data.test_x, data.test_y))
    found = adversarial_curve(curve, x, y, about.radii, "pgd", clip=about.clip, steps=20)
    return {"radii": about.radii, "examples": len(y), "pgd": dict(found.points)}


if __name__ == "__main__":
    typer.run(main)

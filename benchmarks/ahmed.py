"""What the networks of the radio curve answer: by SNR, by class, and which samples they read.

    python benchmarks/modrec.py [--data-dir DIR] [--runs DIR]

after `python benchmarks/curves.py modrec`, whose networks are under --runs. The dense setting, the
one with the lowest validation error and the knee are looked at, on test data and for all seeds.
What is found goes to benchmarks/results/modrec.json.
"""

import json
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from lissom.data import ModRec
from lissom.path import Curve, Point, Setting
from lissom.recipes import make_data, make_model, read_record
from lissom.report import accuracy_by, confusions
from lissom.report.networks import readers, spaced

HERE = Path(__file__).parent
LAYER = "fc1.weight"
SAMPLES = 132  # of each map that LAYER reads
LABELS = (-4, 6, 18)  # dB, of the confusions


def main(data_dir: Path | None = None, runs: Path = Path("runs")) -> None:
    """Look at the dense, the best and the knee's networks of the curve."""
    folder = runs / "modrec" / "curve0"
    record = read_record(folder / "recipe.json")
    data = make_data(record.recipe, data_dir)
    assert isinstance(data, ModRec)

    def network(seed: int) -> nn.Module:
        return make_model(record.recipe, record.shape, record.classes, seed=seed)

    curve = Curve.load(folder, network)
    best = min(curve.settings, key=lambda s: (s.error, s.size()))
    settings = {"dense": curve.settings[0], "best": best, "knee": curve.knee().setting}
    found = {
        "study": "modrec",
        "command": "python benchmarks/modrec.py",
        "data": data.name,
        "names": data.names,
        "settings": {name: looked_at(curve, one, data) for name, one in settings.items()},
        "patterns": [pattern(curve, point) for point in spaced(curve)],
    }
    out = HERE / "results" / "modrec.json"
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(settings)} settings in {out}")


def looked_at(curve: Curve, setting: Setting, data: ModRec) -> dict[str, Any]:
    """Accuracies by SNR of each seed, and the confusions of all seeds together."""
    nets = [curve.network(point) for point in setting.points]
    by_snr = [accuracy_by(net, data.test_x, data.test_y, data.test_snr) for net in nets]
    counted: dict[int, Tensor] = {}
    for label in LABELS:
        x, y = (part[data.test_snr == label] for part in (data.test_x, data.test_y))
        counted[label] = torch.stack([confusions(net, x, y) for net in nets]).sum(0)
    return {
        "price": setting.price,
        "nonzeros": [int(curve.tensors(p)[LAYER].count_nonzero()) for p in setting.points],
        "sizes": [dict(point.sizes) for point in setting.points],
        "test_error": [point.test_error for point in setting.points],
        "by_snr": by_snr,
        "confusions": {label: counts.tolist() for label, counts in counted.items()},
    }


def pattern(curve: Curve, point: Point) -> dict[str, Any]:
    """How many neurons of LAYER read each sample of each map, [maps, samples]."""
    weight = curve.tensors(point)[LAYER]
    return {
        "price": point.price,
        "removed": 1 - int(weight.count_nonzero()) / weight.numel(),
        "readers": readers(weight, (len(weight.T) // SAMPLES, SAMPLES)).counts.tolist(),
    }


if __name__ == "__main__":
    typer.run(main)

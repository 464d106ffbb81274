"""Which zeros make which network faster where? Kinds of zeros beside runtimes, as ratios of time.

    pip install 'lissom[onnx,openvino]' torchvision timm
    python benchmarks/runtimes.py [--only NAME] [--rounds 9] [--busy]

Networks of random weights, since time needs no training; what is dead is drawn at random. In turns,
in torch, ONNX Runtime and OpenVINO, one example at a time on one thread: the dense network; with
90 % of its single weights zero; with two of every four; without 40 % of its units, as they are,
padded by `lissom.export`, and with widths rounded up to multiples of 16 by `round_to`; and in int8,
dense and without these units. Where other work runs on the machine nothing is timed, unless --busy
says so.
"""

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from provenance import REMOVING, ROOT, Busy, idle, keep, provenance

sys.path.insert(0, str(ROOT / "tests"))

import torch
from libraries import library
from torch import Tensor, nn

import lissom
from lissom.models import ds_cnn, lenet5, vgg

RESULT = Path(__file__).parent / "results" / "runtimes.json"
CODE = [
    *REMOVING,
    "src/lissom/measuring",
    "src/lissom/exporting",
    "src/lissom/turns.py",
    "benchmarks/runtimes.py",
]
DEAD = 0.4  # of the units
WEIGHTS = 0.9  # of single weights
DIGIT, PICTURE, PHOTO = (1, 28, 28), (3, 32, 32), (3, 224, 224)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "LeNet-5": (lenet5, DIGIT),
    "DS-CNN": (ds_cnn, DIGIT),
    "VGG, quarter width": (partial(vgg, width=0.25), PICTURE),
    "MobileNetV2": (lambda: library("torchvision.models").mobilenet_v2(), PHOTO),
    "ResNet-18": (lambda: library("torchvision.models").resnet18(), PHOTO),
    "ViT-tiny": (lambda: library("timm").create_model("vit_tiny_patch16_224"), PHOTO),
}
RUNTIMES = ("torch", "onnxruntime", "openvino")
CALIBRATED_ON = {DIGIT: 64, PICTURE: 64, PHOTO: 8}  # random examples


def main(only: str = "", rounds: int = 9, busy: Busy = False, out: Path = RESULT) -> None:
    """Time everything, and keep the record."""
    load = idle(busy)
    torch.set_num_threads(1)
    runs = []
    for name, (make, shape) in NETWORKS.items():
        if only in name:
            torch.manual_seed(0)
            runs += measured(name, make().eval(), shape, rounds)
    record = {
        "command": f"python benchmarks/runtimes.py --rounds {rounds}",
        "seed": 0,
        "dead": DEAD,
        "weights": WEIGHTS,
        "runs": runs,
        "jobs": 1,
        **provenance(CODE, ("torch", "onnxruntime", "openvino", "onnx", "torchvision", "timm")),
    }
    keep(record, out, load)


def measured(
    name: str, dense: nn.Module, shape: tuple[int, ...], rounds: int
) -> list[dict[str, Any]]:
    """All kinds of zeros in a network, in each of the runtimes."""
    x, many = torch.randn(1, *shape), torch.randn(CALIBRATED_ON[shape], *shape)
    networks = forms(dense, x)
    runs = []
    with TemporaryDirectory() as folder:

        def write(form: str, net: nn.Module, **options: Any) -> Path:
            path = Path(folder) / f"{form}.onnx"
            written = lissom.export(net, x, path, check=False, **options)
            notes.update({form: written.notes} if written.notes else {})
            return path

        notes: dict[str, tuple[str, ...]] = {}
        files = {form: write(form, net, pad=False) for form, net in networks.items()}
        files["padded"] = write("padded", networks["units"])
        files["int8"] = write("int8", dense, int8=many)
        files["units, int8"] = write("units, int8", networks["units"], int8=many)
        for runtime in RUNTIMES:
            models = networks if runtime == "torch" else files
            times = lissom.latency(models, x, runtime=runtime, threads=1, rounds=rounds)
            found = {form: asdict(time) for form, time in times.items()}
            runs.append({"network": name, "runtime": runtime, "models": found, "notes": notes})
            ratios = ", ".join(f"{form} × {time.ratio:.2f}" for form, time in times.items())
            print(f"{name}, {runtime}: {ratios}", flush=True)
    macs = {form: lissom.measure(net, x).macs for form, net in networks.items()}
    return [{**run, "macs": macs} for run in runs]


def forms(dense: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """A network with each kind of zeros; units are removed."""
    two = x.expand(2, *x.shape[1:]).contiguous()
    units = deepcopy(dense)
    for family in lissom.units(units, two).blocks:
        n = len(family.labels)
        alive = torch.ones(n)
        alive[torch.randperm(n)[: int(DEAD * n)]] = 0
        family.scale_(alive)
    return {
        "dense": dense,
        "weights": zeroed(dense, lambda w: torch.rand_like(w) < WEIGHTS),
        "two of four": zeroed(dense, two_of_four),
        "units": lissom.shrink(units, two, verify=False),
        "rounded": lissom.shrink(units, two, verify=False, round_to=16),
    }


def zeroed(dense: nn.Module, dead: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with some of the weights of convolutions and dense layers zero."""
    net = deepcopy(dense)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight[dead(layer.weight)] = 0
    return net


def two_of_four(weight: Tensor) -> Tensor:
    """Which weights are dead: two random ones of four neighbours of a row; of the rest none."""
    rows = weight.flatten(1)
    whole = rows.shape[1] // 4 * 4
    order = torch.rand(rows.shape[0], whole // 4, 4).argsort(-1)
    dead = torch.zeros(rows.shape, dtype=torch.bool)
    dead[:, :whole] = (order < 2).flatten(1)
    return dead.view_as(weight)


if __name__ == "__main__":
    typer.run(main)

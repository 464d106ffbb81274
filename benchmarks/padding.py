"""Does a shrunk network run as fast in ONNX Runtime as its multiply–accumulates promise?

    pip install torchvision timm
    python benchmarks/padding.py [--only NAME] [--rounds 9] [--busy]

A random 40 % or 60 % of the units of each family is zeroed and shrunk away, which leaves ragged
widths. In turns, on one thread, with batches of 1 and 32: the dense network, the shrunk one as it
is, and with the channels that `lissom.export` adds. Beside the times stand two ratios of
multiply–accumulates to the dense network's: plain, and with the channels of convolutions rounded
up to the blocks in which ONNX Runtime computes them. Networks with ragged widths that were never
shrunk are padded too. Where other work runs on the machine nothing is timed, unless --busy says so.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from latency import opened, session
from provenance import REMOVING, ROOT, Busy, idle, keep, provenance

sys.path.insert(0, str(ROOT / "tests"))

import torch
from libraries import library
from torch import Tensor, nn

import lissom
from lissom.coupling import couple, trace
from lissom.coupling.sites import Contraction
from lissom.measuring import latency
from lissom.models import ds_cnn, lenet300, vgg

RESULT = Path(__file__).parent / "results" / "padding.json"
CODE = [*REMOVING, "src/lissom/measuring", "src/lissom/exporting", "benchmarks/padding.py"]
BLOCK = {"AVX512": 16, "AVX2": 8}[torch.backends.cpu.get_cpu_capability()]
BATCHES = (1, 32)
DEAD = (0.4, 0.6)
BOUND = 1.25
Make = Callable[[], nn.Module]
DIGIT, PICTURE, PHOTO = (1, 28, 28), (3, 32, 32), (3, 224, 224)
NETWORKS: dict[str, tuple[Make, tuple[int, int, int]]] = {
    "DS-CNN, 24": (lambda: ds_cnn(width=24), DIGIT),
    "DS-CNN, 64": (lambda: ds_cnn(width=64), DIGIT),
    "MobileNetV2": (lambda: library("torchvision.models").mobilenet_v2(), PHOTO),
    "ResNet-18": (lambda: library("torchvision.models").resnet18(), PHOTO),
    "VGG": (vgg, PICTURE),
    "MLP": (lenet300, DIGIT),
    "ViT-tiny": (lambda: library("timm").create_model("vit_tiny_patch16_224"), PHOTO),
}
RAGGED: dict[str, tuple[Make, tuple[int, int, int]]] = {
    "DS-CNN, 61": (lambda: ds_cnn(width=61), DIGIT),
    "DS-CNN, 62": (lambda: ds_cnn(width=62), DIGIT),
}


def main(only: str = "", rounds: int = 9, busy: Busy = False, out: Path = RESULT) -> None:
    """Time everything, and keep the record."""
    load = idle(busy)
    torch.set_num_threads(1)
    runs = []
    for name, (make, shape) in NETWORKS.items():
        for dead in DEAD if only in name else ():
            torch.manual_seed(0)
            dense = make().eval()
            small = shrunk(make().eval(), shape, dead)
            runs += measured(name, dead, {"dense": dense, "ragged": small}, shape, rounds)
    for name, (make, shape) in RAGGED.items():
        if only in name:
            runs += measured(name, 0.0, {"dense": make().eval()}, shape, rounds)
    record = {
        "command": f"python benchmarks/padding.py --rounds {rounds}",
        "seed": 0,
        "bound": BOUND,
        "block": BLOCK,
        "runs": runs,
        "jobs": 1,
        **provenance(CODE, ("torch", "onnxruntime", "onnx", "torchvision", "timm")),
    }
    keep(record, out, load)


def shrunk(net: nn.Module, shape: tuple[int, ...], dead: float) -> nn.Module:
    """A network without a random part of the units of each family."""
    example_inputs = torch.randn(2, *shape)
    for family in lissom.units(net, example_inputs).blocks:
        n = len(family.labels)
        alive = torch.ones(n)
        alive[torch.randperm(n)[: int(dead * n)]] = 0
        family.scale_(alive)
    return lissom.shrink(net, example_inputs)


def measured(
    name: str, dead: float, models: dict[str, nn.Module], shape: tuple[int, ...], rounds: int
) -> list[dict[str, Any]]:
    """The networks in turns, the last of them with padding too, for each batch size."""
    example_inputs = torch.randn(1, *shape)
    last = list(models.values())[-1]
    made = {n: session(net, example_inputs, 1) for n, net in models.items()}
    with TemporaryDirectory() as folder:
        written = lissom.export(last, example_inputs, Path(folder) / "net.onnx")
        made["padded"], notes = opened(written.path, 1), written.notes
    macs = {n: [*counted(net, example_inputs)] for n, net in models.items()}
    small, large = macs[[*models][-1]], macs["dense"]
    plain, rounded = small[0] / large[0], small[1] / large[1]
    runs = []
    for batch in BATCHES:
        times = latency(made, torch.randn(batch, *shape), threads=1, rounds=rounds)
        ratio = times["padded"].ratio
        runs.append(
            {
                "network": name,
                "dead": dead,
                "batch": batch,
                "models": {n: asdict(found) for n, found in times.items()},
                "macs": macs,
                "ratios": {"plain": plain, "rounded": rounded},
                "meets": ratio <= min(1.0, BOUND * rounded),
                "notes": notes,
            }
        )
        said = ", ".join(f"{n} × {found.ratio:.3f}" for n, found in times.items())
        print(
            f"{name}, {dead:.0%} dead, batch {batch}: {said}; multiply–accumulates × {plain:.3f}, "
            f"in blocks × {rounded:.3f}{'' if runs[-1]['meets'] else ': ABOVE'}; "
            f"{'; '.join(notes)}",
            flush=True,
        )
    return runs


def counted(net: nn.Module, example_inputs: Tensor) -> tuple[int, int]:
    """Multiply–accumulates, and those with the channels of convolutions in whole blocks."""
    plain = rounded = lissom.measure(net, example_inputs).macs
    traced = trace(net, example_inputs)
    for site in couple(traced).sites:
        if isinstance(site, Contraction) and site.convolves:
            rows, columns = traced.shape(site.other)[:2]
            macs = site.macs / traced.examples
            alone = columns == 1 or site.source.op == "placeholder"
            apart = 1 if alone else up(columns) / columns
            rounded += round(macs * (apart * up(rows) / rows - 1))
    return plain, rounded


def up(channels: int) -> int:
    """As many as in whole blocks."""
    return -(-channels // BLOCK) * BLOCK


if __name__ == "__main__":
    typer.run(main)

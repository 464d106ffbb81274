"""Does a shrunk VGG run as fast as the same VGG built small? Latency beside multiply–accumulates.

    python benchmarks/latency.py [--rounds 41] [--busy]

Formanek & Hadházi's VGG variant at 32 × 32. A random half of the channels of every convolution is
zeroed and shrunk away: the result has the widths of the same VGG built at half width. In a second
damage every channel is zeroed with probability ½, which leaves widths that are no multiples of 8;
it is shrunk as it is, and with `round_to=8`. All take turns (`lissom.measure`'s
latency), in torch and in ONNX Runtime, with batches of 1 and 32, on one thread and on two. Where
other work runs on the machine nothing is timed, unless --busy says so.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from provenance import REMOVING, Busy, idle, keep, provenance

# Threads that wait actively take the cores from whoever has a turn on them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn

import lissom
from lissom.measuring import latency
from lissom.models import vgg

RESULT = Path(__file__).parent / "results" / "latency.json"
BOUND = 0.10
CODE = [
    *REMOVING,
    "src/lissom/measuring",
    "src/lissom/turns.py",
    "src/lissom/exporting",
    "src/lissom/models/vgg.py",
    "benchmarks/latency.py",
]
NAMES = (
    "built at half width",
    "built once more",
    "shrunk to half width",
    "dense",
    "ragged",
    "ragged, round_to=8",
)


def main(
    rounds: int = 41,
    busy: Busy = False,
    out: Path = RESULT,
) -> None:
    """Time everything, and keep the record."""
    load = idle(busy)
    models = networks()
    runs = []
    for batch in (1, 32):
        example_inputs = torch.randn(batch, 3, 32, 32)
        for threads in (1, 2):
            for backend, ready in backends(models, example_inputs, threads).items():
                times = latency(ready, example_inputs, threads=threads, rounds=rounds)
                runs.append(
                    {
                        "backend": backend,
                        "batch": batch,
                        "threads": threads,
                        "models": {name: asdict(found) for name, found in times.items()},
                    }
                )
                ratios = ", ".join(f"{name} × {found.ratio:.3f}" for name, found in times.items())
                print(f"{backend}, batch {batch}, {threads} threads: {ratios}", flush=True)
    example_inputs = torch.randn(1, 3, 32, 32)
    packages = ("torch", "onnxruntime", "onnx")
    record = {
        "command": f"python benchmarks/latency.py --rounds {rounds}",
        "seed": 0,
        "bound": BOUND,
        "models": {
            name: {
                "macs": lissom.measure(model, example_inputs).macs,
                "weights": sum(p.numel() for p in model.parameters()),
                "widths": [m.out_channels for m in model if isinstance(m, nn.Conv2d)],
            }
            for name, model in models.items()
        },
        "runs": runs,
        "jobs": 2,  # threads, at most
        **provenance(CODE, filter(find_spec, packages)),
    }
    keep(record, out, load)


def networks() -> dict[str, nn.Sequential]:
    """The models to compare, the reference first."""
    torch.manual_seed(0)
    example_inputs = torch.randn(2, 3, 32, 32)
    dense = vgg().eval()
    half, ragged = vgg().eval(), vgg().eval()
    for family in lissom.channels(half, example_inputs).blocks:
        n = len(family.labels)
        alive = torch.ones(n)
        alive[torch.randperm(n)[: n // 2]] = 0
        family.scale_(alive)
    for family in lissom.channels(ragged, example_inputs).blocks:
        family.scale_((torch.rand(family.shape) < 0.5).float())
    made = (
        vgg(width=0.5).eval(),
        vgg(width=0.5).eval(),
        lissom.shrink(half, example_inputs),
        dense,
        lissom.shrink(ragged, example_inputs),
        lissom.shrink(ragged, example_inputs, round_to=8),
    )
    return dict(zip(NAMES, made, strict=True))


def backends(
    models: dict[str, nn.Sequential], example_inputs: Tensor, threads: int
) -> dict[str, dict[str, Callable[..., Any]]]:
    """The models as torch runs them, and as ONNX Runtime does where that is installed."""
    found: dict[str, dict[str, Callable[..., Any]]] = {"torch": dict(models)}
    if find_spec("onnxruntime") is not None:
        found["ONNX Runtime"] = {
            name: session(m, example_inputs, threads) for name, m in models.items()
        }
    return found


def session(model: nn.Module, example_inputs: Tensor, threads: int) -> Callable[[Tensor], Any]:
    """The exported model in ONNX Runtime, its widths as they are, on so many threads."""
    with TemporaryDirectory() as folder:
        written = lissom.export(model, example_inputs, Path(folder) / "model.onnx", pad=False)
        return opened(written.path, threads)


def opened(path: Path, threads: int) -> Callable[[Tensor], Any]:
    """A file in ONNX Runtime, on so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda x: made.run(None, {name: x.numpy()})


if __name__ == "__main__":
    typer.run(main)

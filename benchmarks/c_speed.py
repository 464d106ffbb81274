"""Is the C that lissom writes faster than ONNX Runtime on this machine? One example, one thread.

    python benchmarks/c_speed.py RUN… [--rounds 41] [--busy]

RUN is the folder of a finished training. Its network is exported as it was trained and shrunk, to
ONNX, and shrunk to C in int8 and in float32, compiled with `gcc -O3 -march=native`. All take turns
(`lissom.measuring.latency`). ONNX Runtime is called with its inputs and outputs bound, C by ctypes:
one call of Python each. The C is meant for devices; where it loses here, as convolutions do, the
table says so.
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from provenance import REMOVING, Busy, idle, keep, provenance

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import onnxruntime
import torch
from torch import Tensor, nn

import lissom
from lissom.cli.folders import load_model
from lissom.measuring import latency

RESULT = Path(__file__).parent / "results" / "c_speed.json"
CODE = [*REMOVING, "src/lissom/exporting", "benchmarks/c_speed.py"]
COMPILER = ["gcc", "-O3", "-march=native", "-std=c99", "-shared", "-fPIC"]


def main(runs: list[Path], rounds: int = 41, busy: Busy = False, out: Path = RESULT) -> None:
    """Time all networks, and keep the record."""
    load = idle(busy)
    torch.manual_seed(0)
    found = [timed(run, rounds) for run in runs]
    record = {
        "command": f"python benchmarks/c_speed.py {' '.join(map(str, runs))} --rounds {rounds}",
        "compiler": " ".join(COMPILER),
        "gcc": subprocess.run(["gcc", "--version"], capture_output=True, text=True).stdout.split(
            "\n"
        )[0],
        "networks": found,
        **provenance(CODE, ("torch", "onnxruntime")),
    }
    keep(record, out, load)


def timed(run: Path, rounds: int) -> dict[str, Any]:
    """Times of one network in all forms, the dense one first."""
    network, shape = load_model(run)
    x = torch.rand(1, *shape)
    small = lissom.shrink(network, x)
    with TemporaryDirectory() as folder:
        forms = {
            "dense, ONNX Runtime": in_onnxruntime(network, x, Path(folder) / "dense.onnx"),
            "shrunk, ONNX Runtime": in_onnxruntime(small, x, Path(folder) / "small.onnx"),
            "shrunk, C in int8": in_c(small, x, Path(folder) / "int8.c", torch.rand(200, *shape)),
            "shrunk, C in float32": in_c(small, x, Path(folder) / "float32.c", None),
        }
        times = latency(forms, x, threads=1, rounds=rounds)
    print(f"\n{run.name}\n\n| | µs | × dense in ONNX Runtime |\n| --- | ---: | ---: |")
    for name, one in times.items():
        print(f"| {name} | {1e6 * one.seconds:.1f} | {one.ratio:.2f} |")
    return {"run": run.name, "times": {name: asdict(one) for name, one in times.items()}}


def in_onnxruntime(network: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Any]:
    """The network in ONNX Runtime, with memory bound to it."""
    lissom.export(network, x, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, x.numpy())
    binding.bind_output(session.get_outputs()[0].name)
    return lambda _: session.run_with_iobinding(binding)


def in_c(network: nn.Module, x: Tensor, path: Path, int8: Tensor | None) -> Callable[[Tensor], Any]:
    """The network in C, compiled for this machine."""
    exported = lissom.export(network, x, path, int8=int8)
    assert exported.cost is not None
    library = path.with_suffix(".so")
    subprocess.run([*COMPILER, str(path), "-o", str(library)], check=True)
    infer = getattr(ctypes.CDLL(str(library)), f"{path.stem}_infer")
    arena = (ctypes.c_double * (exported.cost.arena // 8 + 1))()
    y = torch.empty(network(x).shape)
    given, written = ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr())
    return lambda _, kept=(x, y): infer(given, written, arena)


if __name__ == "__main__":
    typer.run(main)

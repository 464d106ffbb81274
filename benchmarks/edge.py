"""What a small device gets: a dense network beside the smallest of its curve that loses little.

    python benchmarks/curves.py fashion
    python benchmarks/edge.py [--curve runs/fashion/curve0] [--loses 0.025] [--busy]

The small network is chosen by validation error, and leaves a multiple of 8 channels in each layer,
which is what kernels are written for. Times are of one image on one thread, dense and small in
turns. Where other work runs on the machine nothing is timed, unless --busy says so.
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from latency import backends
from provenance import REMOVING, Busy, idle, keep, provenance
from safetensors.torch import save_file
from torch import Tensor, nn

import lissom
from lissom.curves import Curve
from lissom.measuring import latency
from lissom.recipes import RecipePath, make_example, read_recipe

RESULT = Path(__file__).parent / "results" / "edge.json"
CODE = [
    *REMOVING,
    "src/lissom/measuring",
    "src/lissom/exporting",
    "src/lissom/turns.py",
    "benchmarks/edge.py",
]


def main(
    curve: Path = Path("runs/fashion/curve0"),
    recipe: str = "fashion-path",
    loses: float = 0.025,
    round_to: int = 8,
    rounds: int = 61,
    data_dir: Path | None = None,
    busy: Busy = False,
) -> None:
    """Measure the pairs of all seeds, and keep the record."""
    load = idle(busy)
    made = RecipePath(read_recipe(recipe), curve, data_dir)
    found = Curve.load(curve, made.make_model)
    chosen = found.within(loses, "macs")
    dense = {point.seed: point for point in found.settings[0].points}
    pairs = []
    for point in chosen.points:
        points = {"dense": dense[point.seed], "small": point}
        trained = {name: made.make_model(point.seed) for name in points}
        for name, one in points.items():
            trained[name].load_state_dict(found.tensors(one))
        two, example = (
            make_example(trained["dense"], made.data.train_x.shape[1:], n) for n in (2, 1)
        )
        models = {
            "dense": trained["dense"].eval(),
            "small": lissom.shrink(trained["small"].eval(), two, round_to=round_to),
        }
        pair = {name: sizes(model, example) for name, model in models.items()}
        for name, one in points.items():
            pair[name] |= {"error": one.error, "test_error": one.test_error}
        times = {
            backend: {
                n: asdict(t) for n, t in latency(ready, example, threads=1, rounds=rounds).items()
            }
            for backend, ready in backends(models, example, 1).items()
        }
        pairs.append({"seed": point.seed, "models": pair, "times": times})
        print(
            pair, {b: {n: t["ratio"] for n, t in of.items()} for b, of in times.items()}, flush=True
        )
    record = {
        "command": f"python benchmarks/edge.py --loses {loses} --round-to {round_to}",
        "rounds": rounds,
        "recipe": recipe,
        "loses": loses,
        "round_to": round_to,
        "strength": chosen.strength,
        "pairs": pairs,
        "jobs": 1,
        **provenance(CODE, ("torch", "onnxruntime")),
    }
    keep(record, RESULT, load)


def sizes(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Parameters, MACs for one example, and bytes of its files."""
    with TemporaryDirectory() as folder:
        files = {"safetensors": Path(folder) / "net.safetensors", "onnx": Path(folder) / "net.onnx"}
        save_file(model.state_dict(), files["safetensors"])
        lissom.export(model, example, files["onnx"])
        written = {name: file.stat().st_size for name, file in files.items()}
    counted = lissom.measure(model, example)
    return {"weights": counted.weights, "macs": counted.macs or 0, **written}


if __name__ == "__main__":
    typer.run(main)

"""Networks as C on an emulated Cortex-M4: flash, RAM, instructions and accuracy, beside other C.

    python benchmarks/generated_c.py [--networks DIR] [--emx PROGRAM] [--seeds N] [--finished]

The networks are trained by lissom's recipes and kept in DIR, where a finished one is not trained
again, and with --finished none is; `lissom.shrink` removes what is dead. Each is written as C with
1,000 training images to calibrate on, built by arm-none-eabi-gcc and run under qemu on all test
images, where every logit must be that of the reference in Python, and on ten of them in other
settings. emx-onnx-cgen writes C in float32 from lissom's ONNX of the same network, which the same
compiler and flags build.
Nothing is timed: instructions are counted, and repeat exactly.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from plans import prepare
from provenance import ROOT, TRAINING, keep, provenance, recipe_files
from run import trained
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

import lissom
from lissom.data import Dataset, load
from lissom.exporting.c import reference
from lissom.measuring import measure
from lissom.models import lenet5, lenet300
from lissom.recipes import make_example, make_model, read_record
from lissom.running import as_inputs
from lissom.schedules import cosine
from lissom.training import Teacher, Trainer, logits_of

sys.path.insert(0, str(ROOT / "tests"))

from microcontrollers import BOARDS, Network, run

RESULT = ROOT / "benchmarks" / "results" / "microcontrollers.json"
CODE = [*TRAINING, "src/lissom/exporting", "tests/microcontrollers.py"]
CODE += ["benchmarks/generated_c.py", *recipe_files("lenet5-gates-small")]
CODE += recipe_files("lenet300-topk-2-percent")
CALIBRATION, EVERYWHERE = 1000, 10  # images
FINE_TUNING, RETRAINING = 160, 5  # epochs
VALUES = 15  # in a codebook of four bits, beside 0
HEADERS = {  # the standard headers that emx-onnx-cgen's C includes, as far as it uses them
    "math.h": "#define INFINITY __builtin_inff()\n"
    "static inline float fmaxf(float a, float b) { return a > b ? a : b; }\n",
    "string.h": "",
}


def main(
    networks: Path = Path("runs/microcontrollers"),
    emx: str = "emx-onnx-cgen",
    data_dir: Path | None = None,
    seeds: int = 1,
    finished: Annotated[bool, typer.Option("--finished", help="Train nothing.")] = False,
) -> None:
    """Measure all networks, and keep the record."""
    prepare(data_dir)
    data = load("mnist", data_dir)
    found = []
    for name, make in NETWORKS.items():
        for seed in range(seeds):
            file = networks / f"{name}-seed{seed}.safetensors"
            if not file.exists() and finished:
                continue
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                lissom.save(make(networks, data, seed).eval(), file)
            net = lissom.load(file, lenet5 if name == "lenet" else lenet300)
            found.append({"name": name, "seed": seed, **measured(net, data, emx)})
            print(json.dumps(found[-1]), flush=True)
    versions = [BOARDS["Cortex-M4"].tools[0], BOARDS["Cortex-M4"].tools[1], emx]
    record = {
        "command": "python benchmarks/generated_c.py" + f" --seeds {seeds}" * (seeds > 1),
        "networks": found,
        "tools": {Path(tool).name: version(tool) for tool in versions},
        **provenance(CODE, ("torch", "numpy", "onnx")),
    }
    keep(record, RESULT)


def version(tool: str) -> str:
    """The first line of what a tool says of its version; of emx-onnx-cgen, what pip says."""
    if "emx" in tool:
        python = Path(tool).resolve().with_name("python")
        asked = [
            str(python),
            "-c",
            "from importlib.metadata import version as v; print(v('emx-onnx-cgen'))",
        ]
    else:
        asked = [tool, "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def lenet(folder: Path, data: Dataset, seed: int) -> nn.Module:
    """LeNet-5 by gates down to 2.7 thousand weights, and what lives fine-tuned by itself.

    What follows the recipe's 40 epochs of gates is its own fine-tuning (its teacher, decay and
    average), of the small network, which takes a third of the time, and for longer.
    """
    short = ["train.epochs=41", "train.cosine_from=40", "train.average_from=40"]
    entry = {"recipe": "lenet5-gates-small", "label": "lenet", "value": None, "set": short}
    trained(folder, entry, seed)
    small = shrunk(folder / f"lenet-seed{seed}")
    teacher = network_of(folder / f"lenet-seed{seed}" / "teacher")
    steps = -(-len(data.train_x) // 256)
    Trainer(
        small,
        torch.optim.AdamW(small.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05),
        data,
        teacher=Teacher(logits_of(teacher, data.train_x), alpha=0.9, temperature=4),
        epochs=FINE_TUNING,
        batch_size=256,
        lr_factor=cosine(1, 0, FINE_TUNING * steps),
        average_from=0,
        evaluate_every=FINE_TUNING,
        precision="bf16-mixed",
        channels_last=True,
        seed=seed,
    ).fit()
    return small


def mlp(fraction: float, folder: Path, data: Dataset, seed: int) -> nn.Module:
    """784-300-100 with a fraction of its weights, by TopK in Adam's metric."""
    entry = {
        "recipe": "lenet300-topk-2-percent",
        "label": f"mlp-{fraction:g}",
        "value": None,
        "set": [f"penalties.0.TopK.fraction.1.end={fraction}"],
    }
    trained(folder, entry, seed)
    return shrunk(folder / f"mlp-{fraction:g}-seed{seed}", select=False)


def coded_mlp(fraction: float, folder: Path, data: Dataset, seed: int) -> nn.Module:
    """The same with fifteen values a layer beside 0: by k-means, and then trained."""
    net = lissom.load(folder / f"mlp-{fraction:g}-seed{seed}.safetensors", lenet300)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Coded(layer.weight), unsafe=True)
    steps = -(-len(data.train_x) // 256)
    Trainer(
        net,
        torch.optim.Adam(net.parameters(), lr=5e-4),
        data,
        epochs=RETRAINING,
        batch_size=256,
        lr_factor=cosine(1, 0, RETRAINING * steps),
        evaluate_every=RETRAINING,
        seed=seed,
    ).fit()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    return net


class Coded(nn.Module):
    """Weights of few values: zeros stay, and all that share a value move together."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.alive = weight.detach() != 0
        (self.form,) = lissom.Codebook(VALUES).project([weight.detach()[self.alive]], 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The values, of which the weights are made."""
        return self.form.codebook

    def forward(self, values: Tensor) -> Tensor:
        """The weights."""
        zeros = values.new_zeros(self.alive.shape)
        return zeros.masked_scatter(self.alive, values[self.form.indices.long()])


NETWORKS: dict[str, Callable[[Path, Dataset, int], nn.Module]] = {
    "lenet": lenet,
    "mlp-0.02": partial(mlp, 0.02),
    "mlp-0.02-coded": partial(coded_mlp, 0.02),
    "mlp-0.01": partial(mlp, 0.01),
}


def network_of(folder: Path) -> nn.Module:
    """The network of a run, as it was trained."""
    record = read_record(folder / "recipe.json")
    model = make_model(record.recipe, record.shape, record.classes).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def shrunk(folder: Path, select: bool = True) -> nn.Module:
    """The network of a run without what is dead."""
    model = network_of(folder)
    example = make_example(model, read_record(folder / "recipe.json").shape, 2)
    return lissom.shrink(model, example, inputs=select, select=select)


def measured(net: nn.Module, data: Dataset, emx: str) -> dict[str, Any]:
    """What a network is, and what it takes as C of each kind."""
    net = net.eval()
    calibration, test = data.train_x[:CALIBRATION], data.test_x
    example = test[:1]
    expected = reference(net, as_inputs(example), as_inputs(calibration))(test).numpy()
    counted = measure(net, example)
    living = [p.count_nonzero().item() for p in net.parameters() if p.ndim > 1]
    with torch.inference_mode():
        floats = torch.cat([net(x) for x in test.split(1000)]).numpy()
    found: dict[str, Any] = {
        "weights": sum(living),
        "parameters": counted.weights,
        "macs": counted.macs,
        "error": error(floats, data),
        "int8_error": error(expected, data),
    }
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lissom.export(net, example, folder / "net.c", int8=calibration)
        pixels = np.rint(255 * test.flatten(1).numpy())
        for board in BOARDS:
            for flags in ("-Os", "-O2") if board == "Cortex-M4" else ("-Os",):
                for kind, inputs in (("float", test.flatten(1).numpy()), ("uint8", pixels)):
                    setting = f"{board} {flags} {kind}"
                    images = len(test) if setting == "Cortex-M4 -Os float" else EVERYWHERE
                    x = inputs[:images].astype(np.float32 if kind == "float" else np.uint8)
                    c = Network("net", [folder / "net.c"], x, expected.shape[1])
                    cost = run(BOARDS[board], c, folder / "build", [flags])
                    if not np.array_equal(cost.outputs, expected[:images]):
                        raise SystemExit(f"{setting}: other logits than those of the reference")
                    found[setting] = cost.to_dict()
        for flags in ("-Os", "-O2"):
            found[f"emx {flags}"] = others(net, example, test[:EVERYWHERE], folder, emx, flags)
    return found


def others(
    net: nn.Module, example: Tensor, x: Tensor, folder: Path, emx: str, flags: str
) -> dict[str, int]:
    """The same network as C by emx-onnx-cgen, in float32, on a Cortex-M4."""
    lissom.export(net, example, folder / "other.onnx", batch=1, pad=False)
    asked = ["--large-temp-threshold", "0", "--large-weight-threshold", "0", "--restrict-arrays"]
    command = [emx, "compile", *asked, "--model-name", "other", "other.onnx", "other_net.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "other.h").write_text(
        "#define OTHER_ARENA_BYTES 1\nvoid other_infer(const float *, float *, void *);\n"
    )
    (folder / "other.c").write_text(
        "void other(const float *, float *);\n"
        "void other_infer(const float *x, float *y, void *arena) { (void)arena; other(x, y); }\n"
    )
    for name, text in HEADERS.items():
        (folder / name).write_text(text)
    inputs = x.flatten(1).numpy()
    c = Network("other", [folder / "other.c", folder / "other_net.c"], inputs, 10)
    cost = run(BOARDS["Cortex-M4"], c, folder / "build", [flags, f"-I{folder}"])
    with torch.inference_mode():
        np.testing.assert_allclose(cost.outputs, net(x).numpy(), rtol=1e-4, atol=1e-3)
    return cost.to_dict()


def error(logits: np.ndarray, data: Dataset) -> float:
    """The fraction of the test data that is classified wrongly."""
    return float((logits.argmax(1) != data.test_y.numpy()).mean())


if __name__ == "__main__":
    typer.run(main)

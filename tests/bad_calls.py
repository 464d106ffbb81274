"""A call that works for each public function and class, on tiny networks: what goes in, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import path_cases
import torch
from test_modrec import write_npz
from torch import nn
from torch.optim import SGD, Adam
from training_cases import blobs, dense

import lissom
from lissom import (
    L0,
    L1,
    L2,
    TopK,
    attacks,
    channels,
    compressions,
    distill,
    ensemble,
    export,
    gate,
    kernels,
    lc,
    measure,
    measuring,
    models,
    neurons,
    report,
    schedules,
    weights,
)
from lissom.compressions import Codebook
from lissom.curves import Curve
from lissom.data import Dataset, Loaders, ModRec, first_inputs, load_modrec
from lissom.hard_concrete import HardConcrete
from lissom.methods import (
    GateOptions,
    LCOptions,
    Options,
    ProximalOptions,
    Strength,
    close_dead_gates,
    gates_of,
    make_options,
    method_named,
    methods_on,
    require_plain,
)  # fmt: skip
from lissom.training import Augment, Score, Task, TrainOptions, evaluate
from lissom.training.teacher import Teacher


@dataclass
class Call:
    """A function, its arguments, and what it must leave as it was when it refuses them.

    Attributes:
        function: what is called.
        given: its arguments by name.
        watched: networks, optimizers, methods and tensors beside the arguments.
        trains: whether it also draws numbers, and keeps what it has done, when it ends early.
    """

    function: Callable[..., Any]
    given: dict[str, Any]
    watched: tuple[Any, ...] = ()
    trains: bool = False


X = torch.linspace(-1, 1, 32).reshape(8, 4)
Y = torch.arange(8) % 3
IMAGES = torch.linspace(0, 1, 128).reshape(2, 1, 8, 8)
CALLS: dict[str, Callable[[Path], Call]] = {}


def call(make: Callable[[Path], Call]) -> Callable[[Path], Call]:
    CALLS[make.__name__.strip("_").replace("__", ".")] = make
    return make


def plain(name: str, function: Callable[..., Any], /, **given: Any) -> None:
    """A call whose arguments can be made once."""
    CALLS[name] = lambda folder: Call(function, dict(given))


def of(name: str, make: Callable[[], Any], method: str, /, **given: Any) -> None:
    """A call of a method of an object that is made anew."""

    def made(folder: Path) -> Call:
        owner = make()
        return Call(getattr(owner, method), dict(given), (owner,))

    CALLS[name] = made


def on_model(
    name: str, function: Callable[..., Any], make: Callable[[], Any], **given: Any
) -> None:
    CALLS[name] = lambda folder: Call(function, {"model": make(), **given})


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)
    )  # fmt: skip


def pruned() -> nn.Sequential:
    net = dense()
    with torch.no_grad():
        net[0].weight[1:4] = 0
        net[0].bias[1:4] = 0
    return net


# Groups.

on_model("weights", lissom.weights, dense, biases=False)
on_model("kernels", kernels, conv)
on_model("columns", lissom.columns, dense)
on_model("tiles", lissom.tiles, dense, shape=(2, 2))
on_model("blocks", lissom.blocks, dense, run=2)
on_model("partition", lissom.partition, dense, numbers={"0.bias": torch.arange(12)}, kind="mine")
on_model("channels", channels, conv, example_inputs=IMAGES, inputs=False)
on_model("neurons", neurons, dense, example_inputs=X, inputs=False)
on_model("units", lissom.units, dense, example_inputs=(X,), inputs=True)
on_model(
    "heads", lissom.heads, lambda: nn.TransformerEncoderLayer(4, 2, 4, batch_first=True).eval(),
    example_inputs=X[None],
)  # fmt: skip
of(
    "Groups.scale_",
    lambda: weights(dense()),
    "scale_",
    scales=[torch.ones(12, 4), torch.ones(3, 12)],
)
ONCE = weights(dense())
plain("Groups.only", lambda choice: ONCE.only(choice), choice="0")
plain("Groups.without", lambda choice: ONCE.without(choice), choice="0")
CALLS["Groups"] = lambda folder: Call(
    lissom.Groups, {"kind": "weights", "blocks": tuple(weights(dense()).blocks)}
)

# Penalties, schedules.

for one in (L0, L1, L2):
    plain(one.__name__, one, strength=0.1)
plain("MCP", lissom.MCP, strength=0.1, gamma=3.0)
plain("Lq", lissom.Lq, strength=0.1, q=0.5)
plain("Threshold", lissom.Threshold, threshold=0.1)
plain("TopK", TopK, count=3, per="all")
plain("TopK.fraction", TopK, fraction=0.5, per="layer")
plain("L1Ball", lissom.L1Ball, radius=1.0, per="layer")
for penalty in (
    L0(0.1), L1(torch.ones(4)), L2(0.1), lissom.MCP(0.1), lissom.Lq(0.1), TopK(2),
    lissom.L1Ball(1.0), lissom.Threshold(0.1), lissom.NonNegative(), L0(0.1) + L2(0.1),
):  # fmt: skip
    each = f"{penalty}"
    of(f"{each:.30}.prox", lambda p=penalty: p, "prox", norms=X[0].abs(), t=0.5)
    of(f"{each:.30}.value", lambda p=penalty: p, "value", norms=X[0].abs())
    of(f"{each:.30}.at", lambda p=penalty: p, "at", step=3)
CALLS["a sum"] = lambda folder: Call(lambda a, b: a + b, {"a": L0(0.1), "b": L2(0.1)})
for shape in ("linear", "cubic", "exponential", "cosine"):
    plain(f"schedules.{shape}", getattr(schedules, shape), start=1.0, end=0.1, steps=10)
plain("multistep", schedules.multistep, start=1.0, gamma=0.1, milestones=[3, 5])
plain("a schedule", schedules.linear(0.0, 1.0, 5), step=3)
plain("Schedule.then", schedules.linear(0.0, 1.0, 5).then, after=schedules.cubic(1.0, 2.0, 5))
plain("HardConcrete", HardConcrete, beta=0.5, gamma=-0.1, zeta=1.1)
for which in ("sample", "p_nonzero", "mean", "median"):
    of(f"HardConcrete.{which}", HardConcrete, which, log_alpha=torch.zeros(3))
plain("HardConcrete.test_gate", HardConcrete().test_gate, log_alpha=torch.zeros(3), kind="median")

# Methods.


def method(name: str, function: Any, penalty: Any, of_model: bool = False, **options: Any) -> None:
    def made(folder: Path) -> Call:
        net = dense()
        given: dict[str, Any] = {"optimizer": Adam(net.parameters(), lr=0.01)}
        if of_model:
            given["model"] = net
        return Call(function, {**given, "penalties": {weights(net): penalty}, **options}, (net,))

    CALLS[name] = made


method(
    "proximal", lissom.proximal, L0(1e-3), start=0, finalize_at=10, every=2, metric="adaptive",
    fused=True,
)  # fmt: skip
method("proximal TopK", lissom.proximal, TopK(5))
method("subgradient", lissom.subgradient, L1(1e-3), start=1, finalize_at=9)
method(
    "lc", lc, TopK(5), every=5, first=5, c_steps=3, mu=1e-3, mu_factor=1.5, algorithm="augmented",
    metric="euclidean", tolerance=1e-3, restart=False, start=0, finalize_at=None,
)  # fmt: skip
method("lc of a codebook", lc, Codebook(2), every=[3, 4], mu=[1e-3, 2e-3])
method(
    "gate", gate, L0(1e-3) + L2(1e-3), True, example_inputs=X, start=0, finalize_at=9, gate_lr=0.1,
    init=0.5, per="weight", test="published", law=HardConcrete(), draws="batch", noise="fresh",
    detach_l2=True, seed=0,
)  # fmt: skip
method(
    "gate with a budget", gate, L0(0.0), True, example_inputs=X, budget=lissom.Budget(weights=0.5)
)
plain("Budget", lissom.Budget, weights=0.5, rate=0.01, damping=10.0)
plain("Budget of bytes", lissom.Budget, bytes=0.5)
plain("Options", Options, start=1, finalize_at=4)
plain("ProximalOptions", ProximalOptions, every=2, metric="adaptive", fused=False)
plain(
    "GateOptions", GateOptions, gate_lr=0.1, init=[0.5, 0.6], per="group", test="mode",
    law=HardConcrete(), draws="batch", noise="pooled", detach_l2=False, seed=3,
)  # fmt: skip
plain("LCOptions", LCOptions, every=[3, 4], mu=[0.1, 0.2], tolerance=0.1, restart=True)
plain("make_options", make_options, cls=ProximalOptions, given={"every": 2}, who="x")
plain("method_named", method_named, name="proximal")
plain("Strength", Strength, label="λ", ramps=True, dense=0.0)
on_model("require_plain", require_plain, dense, verb="export")
CALLS["methods_on"] = lambda folder: Call(methods_on, {"optimizer": SGD(dense().parameters(), 0.1)})


def gated() -> tuple[nn.Module, Any]:
    net = dense()
    return net, gate(Adam(net.parameters()), net, {weights(net): L0(1e-3)}, seed=0)


def handle(make: Any, penalty: Any, **options: Any) -> Any:
    net = dense()
    opt = Adam(net.parameters())
    first = (opt, net) if make is gate else (opt,)
    found = make(*first, {weights(net): penalty}, **options)
    (net(X).sum() + found.penalty()).backward()
    opt.step()
    return net, opt, found


HANDLES: dict[str, Callable[[], Any]] = {
    "proximal": lambda: handle(lissom.proximal, TopK(9)),
    "lc": lambda: handle(lc, TopK(9), every=1, c_steps=3),
    "gate": lambda: handle(gate, L0(1e-3), seed=0),
    "subgradient": lambda: handle(lissom.subgradient, L1(1e-3)),
}
for name, handle_of in HANDLES.items():

    def loading(folder: Path, make: Callable[[], Any] = handle_of) -> Call:
        net, opt, found = make()
        return Call(found.load_state_dict, {"state": found.state_dict()}, (net, opt, found))

    CALLS[f"{name}.load_state_dict"] = loading


@call
def gates__sample(folder: Path) -> Call:
    net, gates = gated()
    return Call(lambda n, seed: [m(X) for m in gates.sample(n, seed)], {"n": 2, "seed": 0}, (net,))


@call
def gates__expected(folder: Path) -> Call:
    net, gates = gated()
    return Call(gates.total, {"cost": "weights"}, (net,))


@call
def gates__expected_loss(folder: Path) -> Call:
    net, gates = gated()
    loss = lambda: net(X).sum()  # noqa: E731
    return Call(gates.expected_loss, {"loss": loss, "samples": 2}, (net,), trains=True)


CALLS["gates_of"] = lambda folder: Call(gates_of, {"model": gated()[0]})
CALLS["close_dead_gates"] = lambda folder: Call(close_dead_gates, {"gates": gated()[1]})

# Compressions.

plain("Codebook", Codebook, k=3, per="layer")
plain("LowRank", lissom.LowRank, rank=2)
plain("RankSelection", lissom.RankSelection, alpha=0.1, cost=1.0)
plain("ScaledBinary", lissom.ScaledBinary, per="layer")
plain("ScaledTernary", lissom.ScaledTernary, per="all")
plain("Additive", compressions.Additive, parts=(Codebook(2), TopK(3)))
plain("Dense", compressions.Dense, tensor=X)
plain("Factors", compressions.Factors, u=X, v=X.T, shape=(8, 8))
plain("Quantized", compressions.Quantized, codebook=torch.tensor([0.0, 1.0]), indices=Y % 2)
for compression in (Codebook(2), lissom.Binary(), lissom.ScaledTernary(), lissom.LowRank(1)):
    of(
        f"{compression}.project", lambda c=compression: c, "project", w=[X.clone(), X.clone()],
        mu=1.0,
    )  # fmt: skip


def low_rank(model: nn.Module) -> dict[str, Any]:
    u, s, v = torch.linalg.svd(model[0].weight.detach(), full_matrices=False)  # type: ignore[index]
    return {"0.weight": compressions.Factors(u[:, :2] * s[:2], v[:2], (12, 4))}


@call
def factorize(folder: Path) -> Call:
    model = dense()
    return Call(lissom.factorize, {"model": model, "forms": low_rank(model)})


@call
def save_compressed(folder: Path) -> Call:
    model = dense()
    given = {"model": model, "forms": low_rank(model), "path": folder / "new"}
    return Call(compressions.save_compressed, given)


@call
def load_compressed(folder: Path) -> Call:
    model = dense()
    compressions.save_compressed(model, low_rank(model), folder / "compressed")
    return Call(compressions.load_compressed, {"path": folder / "compressed", "model": dense()})


# Training.

plain(
    "Dataset", Dataset, name="d", train_x=X, train_y=Y, test_x=X.clone(), test_y=Y.clone(),
    classes=3, valid_x=X.clone(), valid_y=Y.clone(), names=("a", "b", "c"),
)  # fmt: skip
IQ = X.reshape(4, 2, 4)
plain(
    "ModRec", ModRec, name="d", train_x=IQ, train_y=Y[:4], test_x=IQ.clone(), test_y=Y[:4],
    classes=3, names=("a", "b", "c"), train_snr=torch.tensor([0, 2, 4, 6]),
    test_snr=torch.tensor([0, 2, 4, 6]), db_per_label=2,
)  # fmt: skip
plain("Dataset.hold_out", blobs().hold_out, n=8, seed=0)
plain("Dataset.bootstrap", blobs().bootstrap, seed=0)
plain("Dataset.to", blobs().to, device="cpu")
plain("data.load", lissom.data.load, name="digits")
LOADED = [(X.clone(), Y.clone()) for _ in range(2)]
plain("Loaders", Loaders, train=LOADED, test=LOADED, valid=LOADED, name="d", classes=3)
plain("first_inputs", first_inputs, data=blobs(), task=Task(), n=2)
plain(
    "Task", Task, loss="cross_entropy", score=None, weight=[1.0, 2.0, 3.0],
    label_smoothing=0.1,
    forward=lambda model, batch: (model(batch[0]), batch[1]), name="wrong", unit="°C",
)  # fmt: skip
plain("Score", Score, of=lambda o, t: 1.0, name="size", best=1.0, larger_is_better=True)
plain("training.evaluate", evaluate, model=dense(), data=blobs(), task=Task(), part="test")
plain("Augment", Augment, pad=1, flip=True)
plain("Teacher", Teacher, logits=torch.zeros(64, 3), alpha=0.5, temperature=2.0)
TRAIN: dict[str, Any] = {
    "epochs": 1, "batch_size": 32, "lr_factor": schedules.cosine(1.0, 0.1, 1), "patience": 1,
    "patience_from": 0, "average_from": None, "average_decay": 0.9, "evaluate_every": 1,
    "evaluate_train": True,
    "precision": "32-true", "accumulate": 2, "steps_per_epoch": 1, "clip_norm": 1.0,
    "scheduler_by": "epoch", "devices": 1, "strategy": "auto", "channels_last": False,
    "device": "cpu", "seed": 0,
}  # fmt: skip
plain("TrainOptions", TrainOptions, augment=Augment(1), **TRAIN)


@call
def load_mod_rec(folder: Path) -> Call:
    file = write_npz(folder / "RML2016.10a.npz")
    given = {
        "file": file, "snr_min": -4, "am_ssb": "noise", "split": "run", "test_fraction": 0.2,
        "seed": 0, "data_dir": None,
    }  # fmt: skip
    return Call(load_modrec, given)


@call
def trainer(folder: Path) -> Call:
    net = dense()
    opt = Adam(net.parameters(), lr=0.01)
    given = {
        "model": net, "optimizer": opt, "data": blobs(valid=6), "out": folder / "run",
        "method": None, "teacher": None, "report": lambda event: None, **TRAIN,
    }  # fmt: skip
    return Call(lambda **given: lissom.Trainer(**given).fit(), given, trains=True)


@call
def trainer_of_a_method(folder: Path) -> Call:
    net = dense()
    opt = Adam(net.parameters(), lr=0.01)
    found = lissom.proximal(opt, {weights(net): TopK(9)}, finalize_at=1)
    given = {"model": net, "optimizer": opt, "method": found, "data": blobs(), "epochs": 1}
    return Call(lambda **given: lissom.Trainer(**given), given, (net, opt))


@call
def trainer_of_odd_data(folder: Path) -> Call:
    data = blobs(valid=6)

    def train(train_x: Any, train_y: Any, valid_x: Any, test_x: Any) -> None:
        net = dense()
        changed = Dataset("d", train_x, train_y, test_x, data.test_y, 3, valid_x, data.valid_y)
        found = lissom.Trainer(net, Adam(net.parameters()), changed, epochs=1, batch_size=32).fit()
        assert found.train.loss == found.train.loss, "trained on NaN"

    given = {"train_x": data.train_x, "train_y": data.train_y, "valid_x": data.valid_x}
    return Call(train, {**given, "test_x": data.test_x}, trains=True)


# Small networks.

on_model(
    "measure", measure, dense, example_inputs=X, tolerance=0.0, latency=False,
    runtime="torch",
)  # fmt: skip
CALLS["latency"] = lambda folder: Call(
    measuring.latency,
    dict(models={"a": dense()}, example_inputs=X, runtime="torch", threads=1, rounds=2),
)
on_model(
    "shrink", lissom.shrink, pruned, example_inputs=X, round_to=1, fold=True, inputs=False,
    select=False, in_place=False, verify=True, as_graph=None,
)  # fmt: skip
on_model("shrink a graph", lissom.shrink, pruned, example_inputs=X, as_graph=True, verify=[X])
on_model("shrink in place", lissom.shrink, pruned, example_inputs=X, in_place=True, round_to=2)


@call
def export_pt2(folder: Path) -> Call:
    given = {"model": dense(), "example_inputs": X, "path": folder / "x.pt2", "tolerance": 1e-3}
    return Call(export, {**given, "check": True})


@call
def export_onnx(folder: Path) -> Call:
    given = {"model": dense(), "example_inputs": X, "path": folder / "x.onnx", "opset": 18}
    given |= {"pad": True, "batch": 2, "int8": None}
    return Call(export, given)


@call
def save(folder: Path) -> Call:
    return Call(lissom.save, {"small": lissom.shrink(pruned(), X), "path": folder / "small"})


@call
def load(folder: Path) -> Call:
    lissom.save(lissom.shrink(pruned(), X), folder / "small")
    return Call(lissom.load, {"path": folder / "small", "model_factory": lambda: dense()})


# Curves.


@cache
def curve_folder() -> Path:
    folder = Path(mkdtemp(prefix="a_curve", dir="/tmp"))
    path_cases.path(seeds=1, points=6, out=folder)
    return folder


def curve() -> Curve:
    return Curve.load(curve_folder(), path_cases.make)


@call
def path(folder: Path) -> Call:
    given = {
        "fit": path_cases.fit, "strengths": (1e-4, 1.0), "make_model": path_cases.make,
        "error": path_cases.error, "example_inputs": path_cases.EXAMPLE, "points": 3, "seeds": 1,
        "test": path_cases.test_error, "out": folder / "curve", "from_scratch": (),
        "strength_name": "λ", "jobs": 1,
    }  # fmt: skip
    return Call(lissom.path, given, trains=True)


@call
def curve__load(folder: Path) -> Call:
    return Call(Curve.load, {"out": curve_folder(), "make_model": path_cases.make})


plain("Curve.within", lambda **given: curve().within(**given), error=0.5, axis="bytes")
plain("Curve.knee", lambda **given: curve().knee(**given), axis="nonzeros")
plain("Curve.front", lambda **given: curve().front(**given), axis="bytes")
plain("Curve.budget", lambda **given: curve().budget(**given), nonzeros=90)
plain("Curve.slope", lambda **given: curve().slope(**given), at=1e-3, axis="nonzeros")
plain("Curve.scores", lambda **given: curve().scores(**given), seed=0, groups=weights)
CALLS["Curve.network"] = lambda folder: Call(
    curve().network, {"point": curve().points[1], "make_model": path_cases.make}
)
CALLS["Curve.tensors"] = lambda folder: Call(curve().tensors, {"point": curve().points[1]})

# Studies.

Z = X.sigmoid()
for attack in ("fgsm", "pgd"):
    CALLS[attack] = lambda folder, attack=attack: Call(
        getattr(attacks, attack),
        {"network": dense(), "x": Z, "y": Y, "radius": 0.1, "clip": (0.0, 1.0), "batch_size": 4}
        | (
            {"steps": 2, "step": 0.1, "restarts": 1, "seed": 0, "norm": "l2"}
            if attack == "pgd"
            else {}
        ),
    )
CALLS["adversarial_accuracy"] = lambda folder: Call(
    attacks.adversarial_accuracy,
    {"network": dense(), "x": Z, "y": Y, "radii": [0.1, 0.2], "attack": "pgd", "steps": 2},
)
CALLS["Ensemble"] = lambda folder: Call(
    lambda networks, x: (e := ensemble.Ensemble(networks), e(x), e.votes(x), e.confidence(x)),
    {"networks": [dense(0), dense(1)], "x": X},
)
CALLS["Recorded"] = lambda folder: Call(
    lambda network, x, batch_size, i: ensemble.Recorded(network, x, batch_size=batch_size)(i),
    {"network": dense(), "x": X, "batch_size": 3, "i": Y},
)
NETWORKS: Callable[[], dict[str, Any]] = lambda: {"networks": [dense(0), dense(1)], "x": X, "y": Y}  # noqa: E731
CALLS["best_of"] = lambda folder: Call(
    ensemble.best_of, {**NETWORKS(), "strength": 0.1, "batch_size": 3}
)
CALLS["calibration_of"] = lambda folder: Call(ensemble.calibration_of, {**NETWORKS(), "bins": 3})
CALLS["accuracy_by_size"] = lambda folder: Call(
    ensemble.accuracy_by_size,
    {**NETWORKS(), "sizes": (1, 2), "repeats": 2, "seed": 0, "batch_size": 9},
)
plain("calibration", ensemble.calibration, confidence=Z[:, 0], right=Y == 1, bins=3)
CALLS["distill"] = lambda folder: Call(
    distill.distill_to_trees,
    {"network": dense(), "data": blobs(), "rounds": 1, "examples": 20, "seed": 0},
)
plain("models.mlp", models.mlp, widths=[4, 5, 3], input_dropout=0.1, activation=nn.ReLU)
plain("models.henrikson", models.henrikson, inputs=9, classes=3, input_dropout=0.1)
plain("models.lenet300", models.lenet300, inputs=9, classes=3, activation=nn.Tanh)
plain("models.cnn", models.cnn, inputs=(1, 16, 16), classes=3, widths=(2, 2, 2))
plain("models.resnet", models.resnet, depth=8, classes=3, width=0.1, channels=1)
plain("models.vgg", models.vgg, classes=3, width=0.02, channels=1, init="xavier")
plain("models.vt_cnn2", models.vt_cnn2, classes=3, dropout=0.1)
plain("models.ahmed_modrec", models.ahmed_modrec, classes=3, kernels=(2, 2), hidden=3)
plain(
    "models.wide_resnet", models.wide_resnet, depth=10, widen=1, classes=3, dropout=0.1, channels=1,
    mean=[0.5], std=[0.5],
)  # fmt: skip
plain("models.build", lambda name, **more: models.build(name, **more), name="mlp", widths=[3, 2])

# Reports.

CALLS["report.confusions"] = lambda folder: Call(
    report.confusions, {"net": dense(), "x": X, "y": Y, "batch_size": 3}
)
CALLS["report.accuracy_by"] = lambda folder: Call(
    report.accuracy_by, {"net": dense(), "x": X, "y": Y, "values": Y * 2, "batch_size": 3}
)
plain(
    "report.confusion_matrix", report.confusion_matrix, counts=torch.eye(3).long(),
    names=["a", "b", "c"],
)  # fmt: skip
plain("report.per_value", report.per_value, accuracies={"a": [{0.0: 0.5, 2.0: 1.0}]}, label="SNR")
plain(
    "report.connectivity", report.connectivity, weights={"0.weight": torch.eye(4)}, shape=(2, 2)
)  # fmt: skip
plain("report.ensemble_sizes", report.ensemble_sizes, accuracies={1: [0.5], 2: [0.6]}, single=0.5)
CALLS["report.log_alpha"] = lambda folder: Call(report.log_alpha, {"gates": gated()[1]})
CALLS["report.trade_off"] = lambda folder: Call(
    report.trade_off, {"curves": {"a": curve()}, "axis": "nonzeros"}
)
CALLS["report.rate_distortion"] = lambda folder: Call(
    report.rate_distortion, {"curves": curve(), "axis": "bytes"}
)
CALLS["report.patterns"] = lambda folder: Call(
    report.patterns,
    {"curve": curve(), "parameter": "0.weight", "shape": (2, 3), "seed": 0, "number": 2},
)
SIXES = torch.linspace(0, 1, 48).reshape(8, 6)
CALLS["report.class_accuracy"] = lambda folder: Call(
    report.class_accuracy,
    {"curve": curve(), "x": SIXES, "y": Y, "make_model": path_cases.make, "names": ["a", "b", "c"]},
)
CALLS["report.adversarial_curve"] = lambda folder: Call(
    report.adversarial_curve,
    {"curve": curve(), "x": SIXES, "y": Y, "radii": [0.1, 0.2], "attack": "fgsm"},
)
CALLS["report.write_curve_report"] = lambda folder: Call(
    report.write_curve_report, {"folders": [curve_folder()], "out": folder / "report.html"}
)

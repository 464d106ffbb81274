"""Files of every kind, damaged at every tenth byte: one clear error, and nothing was changed.

Where a byte does not matter, what is read is what was written.
"""

import copy
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from path_cases import fit, make, path
from products import few, rest, sampled, thinned
from torch import Tensor, nn
from torch.optim import SGD, Adam
from training_cases import blobs, dense, same, state, trainer

import lissom
from lissom import L0, L1, TopK, weights
from lissom.compressions import Codebook, load_compressed, save_compressed
from lissom.compressions.compressions import compress
from lissom.curves import Curve
from lissom.curves.storing import load_latencies, save_latencies, state_in
from lissom.errors import LissomError, RunError
from lissom.measuring import Latency
from lissom.recipes import Record, read_recipe, read_record
from lissom.recipes.runs import RESULT_KIND, keep_record, keep_result, keep_weights, load_weights
from lissom.report import ClassAccuracy
from lissom.storage import load_json, load_state, read_events, save_json, save_state
from lissom.training.checkpoint import KIND as CHECKPOINT
from lissom.training.checkpoint import check_checkpoint, load_checkpoint

X = torch.linspace(-1, 1, 12).reshape(2, 6)


def net(width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def pruned() -> nn.Sequential:
    found = net()
    with torch.no_grad():
        found[0].weight[1:3] = 0
        found[0].bias[1:3] = 0
    return found


def forms(model: nn.Module) -> Any:
    given = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    return dict(zip(given, compress(Codebook(2), list(given.values()), 1.0, None), strict=True))


def training(folder: Path) -> Any:
    """A trainer with a method, whose checkpoint and events are in the folder."""
    model = dense()
    optimizer = Adam(model.parameters(), lr=0.01)
    method = lissom.proximal(optimizer, {weights(model): TopK(20)})
    return trainer(model, optimizer=optimizer, method=method, out=folder, epochs=1)


def resumed(folder: Path) -> Any:
    """What a trainer is after it resumed; it has to be untouched if it could not."""
    made = training(folder)
    before = everything(made)
    try:
        made.resume()
    except RunError:
        assert same(everything(made), before)
        raise
    return everything(made)


def everything(made: Any) -> Any:
    states = made.optimizer.state_dict(), made.method and made.method.state_dict()
    return state(made.model), *states, made.epoch, made.seconds


def compressed(folder: Path) -> Any:
    model = net()
    before = state(model)
    try:
        found = load_compressed(folder / "compressed", model)
    except RunError:
        assert same(state(model), before)
        raise
    return state(model), {name: form.state() for name, form in found.items()}


def of_curve(folder: Path) -> Any:
    curve = Curve.load(folder, make)
    points = [point.to_dict() for point in curve.points]
    return points, curve.strength_name, curve.parameters


def told(record: dict[str, Any]) -> dict[str, Any]:
    """Without the checksum where it is its own name that is damaged: nothing else then tells."""
    near = [key for key in record if sum(map(str.__eq__, key, "crc32")) == 4]
    return {key: value for key, value in record.items() if key not in near}


def point(folder: Path) -> Path:
    return folder / "seed0" / "dense"


def write_run(folder: Path) -> None:
    record = Record(recipe=read_recipe("digits-demo"), seed=0, shape=[1, 8, 8], classes=10)
    keep_record(record, folder)
    keep_result(record, {"error": 0.25, "names": ["a", None, True]}, folder)
    keep_weights(net(), folder)


def weights_of_run(folder: Path) -> Any:
    model = net()
    before = state(model)
    try:
        load_weights(model, folder)
    except RunError:
        assert same(state(model), before)
        raise
    return state(model)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how a folder with it is made, its name, and what is read of it."""

    write: Callable[[Path], object]
    name: str
    read: Callable[[Path], Any]


def a_path(folder: Path) -> Any:
    return path([1e-3], fit=fit, seeds=1, points=2, out=folder)


KINDS = {
    "network": Kind(
        lambda folder: lissom.save(lissom.shrink(pruned(), X), folder / "small"),
        "small",
        lambda folder: state(lissom.load(folder / "small", net)),
    ),
    "graph": Kind(
        lambda folder: lissom.save(lissom.shrink(pruned(), X, as_graph=True), folder / "small"),
        "small",
        lambda folder: (state(g := lissom.load(folder / "small")), g.code, g(X)),
    ),
    "compressed": Kind(
        lambda folder: save_compressed(net(), forms(net()), folder / "compressed"),
        "compressed",
        compressed,
    ),
    "checkpoint": Kind(lambda folder: training(folder).fit(), "checkpoint.pt", resumed),
    "events": Kind(
        lambda folder: training(folder).fit(),
        "events.jsonl",
        lambda folder: [told(event) for event in read_events(folder / "events.jsonl")],
    ),
    "path": Kind(a_path, "path.json", of_curve),
    "point": Kind(a_path, "seed0/dense/point.json", of_curve),
    "point's network": Kind(
        a_path,
        "seed0/dense/network.safetensors",
        lambda folder: (curve := Curve.load(folder)).tensors(curve.points[0]),
    ),
    "point's shrunk network": Kind(
        a_path,
        "seed0/dense/small.safetensors",
        lambda folder: state((curve := Curve.load(folder, make)).network(curve.points[0])),
    ),
    "latencies": Kind(
        lambda folder: save_latencies(
            {"seed0/dense": Latency(2e-3, (1e-3, 3e-3), 1.0, 15, 9, "cpu", 1)}, folder
        ),
        "latencies.json",
        load_latencies,
    ),
    "point's state": Kind(a_path, "seed0/dense/state.pt", lambda folder: state_in(point(folder))),
    "recipe": Kind(write_run, "recipe.json", lambda folder: read_record(folder / "recipe.json")),
    "result": Kind(
        write_run,
        "result.json",
        lambda folder: told(load_json(folder / "result.json", RESULT_KIND)),
    ),
    "weights": Kind(write_run, "model.safetensors", weights_of_run),
    "classes": Kind(
        lambda folder: ClassAccuracy(("a", "b"), {"seed0/dense": (0.5, 1.0)}).save(folder),
        "classes.json",
        ClassAccuracy.load,
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a file of each kind."""
    made = {}
    for kind, case in KINDS.items():
        made[kind] = tmp_path_factory.mktemp("kind")
        case.write(made[kind])
    return made


def read(case: Kind, folder: Path) -> Any:
    """What is read, or None where it is refused, in one sentence that names the file."""
    try:
        return case.read(folder)
    except LissomError as error:
        assert Path(case.name).name in str(error) and "\n" not in str(error)
        return None


def files_in(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def damage(kind: str, folder: Path, step: int) -> None:
    case = KINDS[kind]
    file = folder / case.name
    whole, before = file.read_bytes(), case.read(folder)
    refused = 0
    for place in range(0, len(whole), step):
        for value in (whole[place] ^ 0xFF, whole[place] ^ 1):
            file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            others = files_in(folder)
            found = read(case, folder)
            refused += found is None
            assert found is None or same(found, before), (place, bytes([value]))
            assert files_in(folder) == others
    assert refused > len(range(0, len(whole), step))  # most of a file matters


@sampled(3)
@each_kind
def test_some_bytes_damaged(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    size = (folder / KINDS[kind].name).stat().st_size
    damage(kind, folder, max(10, size // 25 | 1))


@pytest.mark.parametrize("name", ["brc32", "crc22", "Crc32"])
def test_the_name_of_the_checksum_damaged(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.json"
    save_json({"x": 1}, file, "lissom test 1")
    file.write_text(file.read_text().replace("crc32", name))
    with pytest.raises(RunError, match=r"x\.json is damaged"):
        load_json(file, "lissom test 1")


@pytest.mark.exhaustive
@each_kind
def test_every_tenth_byte_damaged(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    damage(kind, shutil.copytree(folders[kind], tmp_path / "copy"), 10)


@each_kind
def test_cut_off(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    folder, case = shutil.copytree(folders[kind], tmp_path / "copy"), KINDS[kind]
    file = folder / case.name
    whole, before = file.read_bytes(), case.read(folder)
    for size in {0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        file.write_bytes(whole[:size])
        found = read(case, folder)
        if kind == "events":  # a line that a kill cut short is left out
            assert found == before[: len(found)]
        elif size == len(whole) - 1 and file.suffix == ".json":
            assert same(found, before)  # all but the end of its last line
        else:
            assert found is None, size


# Wrong on purpose: files that fit their checksums, or have none.


def rewritten(file: Path, record: Any, tensors: dict[str, Tensor]) -> None:
    text = record if isinstance(record, str) else json.dumps(record)
    file.write_bytes(safetensors.torch.save(tensors, {"lissom": text}))


def parts_of(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    record = json.loads(header["__metadata__"]["lissom"])
    del record["crc32"]
    return record, safetensors.torch.load(content)


MODULE_DAMAGE: dict[str, Any] = {
    **{f"without {key}": lambda r, t, k=key: r.pop(k) for key in (
        "sizes", "attention", "biases", "inputs", "reads", "tied",
    )},
    "sizes are a list": lambda r, t: r.update(sizes=[]),
    "a size is a word": lambda r, t: r.update(sizes={"0": {"out_features": "3"}}),
    "a size is true": lambda r, t: r.update(sizes={"0": {"out_features": True}}),
    "a size is huge": lambda r, t: r.update(sizes={"0": {"out_features": 10**30}}),
    "a size is negative": lambda r, t: r.update(sizes={"0": {"out_features": -1}}),
    "no size": lambda r, t: r.update(sizes={"0": {"__class__": 3}}),
    "no size either": lambda r, t: r.update(sizes={"0": {"forward": 3}}),
    "no module": lambda r, t: r.update(sizes={"9": {"out_features": 3}}),
    "biases of nothing": lambda r, t: r.update(biases=["nope"]),
    "inputs x": lambda r, t: r.update(inputs={"x": 1}),
    "inputs without indices": lambda r, t: r.update(inputs={"0": 1}),
    "attention that is none": lambda r, t: r.update(attention={"0": [[0], 1]}),
    "heads of nothing": lambda r, t: r.update(attention={"9": [[0], 1]}),
    "reads of nothing": lambda r, t: r.update(reads=["0"]),
    "tied to itself": lambda r, t: r.update(tied={"0.weight": "2.weight"}),
    "a larger weight": lambda r, t: t.update({"0.weight": torch.ones(5, 9)}),
    "a vector": lambda r, t: t.update({"0.weight": torch.ones(7)}),
    "whole numbers": lambda r, t: t.update({"0.weight": torch.ones(3, 6, dtype=torch.int8)}),
    "a tensor more": lambda r, t: t.update({"9.weight": torch.ones(3)}),
    "a tensor less": lambda r, t: t.pop("0.weight"),
}  # fmt: skip


@sampled(10)
@pytest.mark.parametrize("what", MODULE_DAMAGE)
def test_a_network_that_says_what_cannot_be(tmp_path: Path, what: str) -> None:
    file = tmp_path / "small"
    lissom.save(lissom.shrink(pruned(), X), file)
    record, tensors = parts_of(file)
    rewritten(file, record, tensors)
    assert lissom.load(file, net)[0].out_features == 3  # as it is it can be read
    MODULE_DAMAGE[what](record, tensors)
    rewritten(file, record, tensors)
    with pytest.raises(RunError, match=str(file)):
        lissom.load(file, net)


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000, '{"format": "lissom 2"}', "{"])
def test_no_record(tmp_path: Path, text: str) -> None:
    rewritten(tmp_path / "small", text, {"x": torch.ones(1)})
    with pytest.raises(RunError, match=r"small (says|has|is)"):
        lissom.load(tmp_path / "small", net)


def node(r: dict[str, Any], op: str) -> dict[str, Any]:
    found: dict[str, Any] = next(n for n in r["graphs"][""] if n["op"] == op)
    return found


def last(r: dict[str, Any]) -> dict[str, Any]:
    return node({"graphs": {"": r["graphs"][""][::-1]}}, "call_function")


EVIL = "x=__import__('pathlib').Path('ran').touch()"
GRAPH_DAMAGE: dict[str, Any] = {
    **{f"calls {name}": lambda r, t, n=name: last(r).update(target=n) for name in (
        "aten.save.default", "aten.from_file.default", "aten.__class__.default", "os.system",
        "aten._sparse_coo_tensor_unsafe.default", "aten.linear", "builtins.eval",
        "aten.linear.__call__", "operator.methodcaller",
    )},
    "code as an argument's name": lambda r, t: r["signature"].update(arguments=[EVIL]),
    "a keyword as one": lambda r, t: r["signature"].update(arguments=["lambda"]),
    "code as a tensor's name": lambda r, t: (
        node(r, "get_attr").update(target=f'a", {EVIL}, "'), t.update({f'a", {EVIL}, "': X}),
    ),
    "code as an input's name": lambda r, t: node(r, "placeholder").update(target=EVIL, args=[EVIL]),
    "a later node": lambda r, t: last(r).update(args=[{"node": 99}]),
    "a node before the first": lambda r, t: last(r).update(args=[{"node": -1}]),
    "another object": lambda r, t: last(r).update(args=[{"object": "os"}]),
    "a word that is no type": lambda r, t: last(r).update(args=[{"torch": "save"}]),
    "another operation": lambda r, t: last(r).update(op="call_method"),
    "code as a keyword": lambda r, t: last(r).update(kwargs={f"{EVIL}, y": 1}),
    "a keyword that is none": lambda r, t: last(r).update(kwargs={"y": 1}),
    "reads what is no tensor": lambda r, t: node(r, "get_attr").update(
        target="_version.__class__.__base__.__subclasses__"
    ),
    "a graph that is a method": lambda r, t: (
        r["graphs"].update(to_folder=r["graphs"][""]),
        node(r, "get_attr").update(target="to_folder"),
    ),
    "a missing tensor": lambda r, t: t.clear(),
    "no graph": lambda r, t: r.update(graphs={}),
    "nesting of nothing": lambda r, t: r["signature"].update(outputs={"set": []}),
}  # fmt: skip


@pytest.mark.parametrize("what", few(GRAPH_DAMAGE, list(GRAPH_DAMAGE)[:6]))
def test_a_graph_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small"
    lissom.save(lissom.shrink(pruned(), X, as_graph=True), file)
    record, tensors = parts_of(file)
    rewritten(file, record, tensors)
    expected = lissom.load(file)(X)
    GRAPH_DAMAGE[what](record, tensors)
    rewritten(file, record, tensors)
    if what == "code as an input's name":  # which is not used
        assert torch.equal(lissom.load(file)(X), expected)
    else:
        with pytest.raises(RunError, match=str(file)):
            lissom.load(file)
    assert os.listdir() == ["small"]


def test_a_program_of_torch_is_not_opened(tmp_path: Path) -> None:
    """Reading one unpickles what is in it."""
    lissom.export(net(), X, tmp_path / "net.pt2")
    with pytest.raises(RunError, match=r"runs whatever code is in such a file"):
        lissom.load(tmp_path / "net.pt2")


POINT_DAMAGE: dict[str, tuple[str, Any]] = {
    "error": ("error: input should be a valid", "0.25"),
    "sizes": ("an error and sizes", None),
    "seed": ("seed: input should be a valid integer", 1.5),
    "failed": ("failed: input should be a valid string", 3),
    "strength": ("strength", [1]),
}


@pytest.mark.parametrize("field", POINT_DAMAGE)
def test_a_point_of_other_types(folders: dict[str, Path], field: str, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["point"], tmp_path / "copy")
    file = point(folder) / "point.json"
    told, value = POINT_DAMAGE[field]
    record = json.loads(file.read_text())
    del record["crc32"]
    file.write_text(json.dumps({**record, field: value}))
    with pytest.raises(RunError, match=rf"point\.json: .*{told}"):
        Curve.load(folder)


def other_rate(model: nn.Module) -> Any:
    return SGD(model.parameters(), lr=0.1), None


def two_groups(model: nn.Module) -> Any:
    return Adam([{"params": list(part.parameters())} for part in (model[0], model[3])]), None


def other_order(model: nn.Module) -> Any:
    return Adam(list(model.parameters())[::-1]), None


def other_method(model: nn.Module) -> Any:
    optimizer = Adam(model.parameters())
    return optimizer, lissom.subgradient(optimizer, {weights(model): L1(1e-3)})


def other_groups(model: nn.Module) -> Any:
    optimizer = Adam(model.parameters())
    return optimizer, lissom.proximal(optimizer, {weights(model).only("0"): L0(1e-3)})


def gates(model: nn.Module) -> Any:
    optimizer = Adam(model.parameters())
    return optimizer, lissom.gate(optimizer, model, {weights(model): L0(1e-3)})


OTHERS = {f.__name__: f for f in (other_rate, two_groups, other_order, other_method, other_groups)}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kept", ["none", "proximal"])
def test_a_checkpoint_of_another_run_changes_nothing(tmp_path: Path, kept: str, other: str) -> None:
    (training(tmp_path) if kept == "proximal" else trainer(out=tmp_path, epochs=1)).fit()
    model = dense(seed=1)
    optimizer, method = OTHERS[other](model)
    made = trainer(model, optimizer=optimizer, method=method, out=tmp_path)
    before = everything(made)
    with pytest.raises(RunError, match="is of another model, optimizer or method: "):
        made.resume()
    assert same(everything(made), before)


def test_a_checkpoint_of_another_model_changes_nothing_with_gates_either(tmp_path: Path) -> None:
    """Gates that were finalized are off the model that the checkpoint is of."""

    def made(model: nn.Module, epochs: int) -> Any:
        optimizer, method = gates(model)
        return trainer(model, optimizer=optimizer, method=method, out=tmp_path, epochs=epochs)

    done = made(dense(), 1)
    done.fit()
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    done = made(dense(), 1)
    check_checkpoint(checkpoint, done.model, done.optimizer, done.method)
    optimizer, method = gates(
        wide := nn.Sequential(nn.Linear(4, 13), *dense()[1:3], nn.Linear(13, 3))
    )
    refusing = trainer(wide, optimizer=optimizer, method=method, out=tmp_path)
    before = everything(refusing)
    with pytest.raises(RunError, match="is of another model, optimizer or method: "):
        refusing.resume()
    assert same(everything(refusing), before)


# A checkpoint that fits its checksum and in which one value is another, at any depth.

WRONG: dict[str, Callable[[Any], Any]] = {
    "none": lambda value: None,
    "a word": lambda value: "x",
    "a list": lambda value: [value],
    "a dict": lambda value: {"a": value},
    "a tensor": lambda value: torch.ones(2, 7),
    "a number": lambda value: -3,
    "another type": lambda value: value.to(torch.int8) if isinstance(value, Tensor) else 2.5,
}


def a_run(kind: str, folder: Path, epochs: int) -> Any:
    model, more = dense(), {}
    optimizer = Adam(model.parameters(), lr=0.01)
    method: Any = None
    if kind == "average":
        more = {"average_from": 1}
    elif kind == "patience":
        more = {"data": blobs(valid=8), "patience": 3}
    elif kind == "proximal":
        method = lissom.proximal(optimizer, {weights(model): TopK(20)}, every=2, finalize_at=5)
    elif kind == "gates":
        method = lissom.gate(optimizer, model, {weights(model): L0(1e-3)})
    elif kind == "lc":
        given = {"every": 2, "c_steps": 3, "mu": 1e-3, "mu_factor": 1.5}
        method = lissom.lc(optimizer, {weights(model): TopK(20)}, **given)
    given = {"optimizer": optimizer, "method": method, "out": folder, "epochs": epochs}
    return trainer(model, **given, **more)


def places_in(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value within is that stands in a dict or a list."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*before, key)
        if isinstance(inner, dict | list):
            yield from places_in(inner, (*before, key))


def changed_at(state: Any, place: tuple[Any, ...], wrong: str) -> Any:
    found = copy.deepcopy(state)
    holder = found
    for key in place[:-1]:
        holder = holder[key]
    if wrong == "gone":
        del holder[place[-1]]
    else:
        holder[place[-1]] = WRONG[wrong](holder[place[-1]])
    return found


RUNS = ("average", "patience", "proximal", "gates", "lc")
MANY = len(thinned(range(300), 3))


@pytest.mark.parametrize(
    ("kind", "many"),
    [
        ("proximal", 25),
        ("average", 15),
        *(rest(kind, MANY) for kind in RUNS),
    ],
)
def test_a_refused_resume_changes_nothing_and_others_go_on(
    tmp_path: Path, kind: str, many: int
) -> None:
    a_run(kind, tmp_path, 2).fit()
    file = tmp_path / "checkpoint.pt"
    whole = load_state(file, CHECKPOINT)
    cases = [(place, wrong) for place in places_in(whole) for wrong in ("gone", *WRONG)]
    refused = 0
    for place, wrong in random.Random(0).sample(cases, many):
        save_state(changed_at(whole, place, wrong), file, CHECKPOINT)
        made = a_run(kind, tmp_path, 3)
        before = copy.deepcopy(everything(made))
        try:
            made.resume()
        except RunError:
            refused += 1
            assert same(everything(made), before), (place, wrong)
            continue
        # A wrong number is as good as a right one, and of a group of one weight no other tells.
        numbers = place[0] in ("seconds", "event", "optimizer") or place[:2] == ("best", "event")
        if not numbers or wrong not in ("a number", "another type", "gone"):
            made.fit()
    assert refused > many / 2

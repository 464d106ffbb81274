"""The path: warm starts, seeds, placing, resuming, failing, and the networks that come out."""

import json
import logging
import math
import random
import re
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from path_cases import (
    EXAMPLE,
    TOTAL,
    error,
    fit,
    keep,
    left,
    make,
    path,
    raising,
    same_weights,
    test_error,
    timeless,
)
from products import exhaustive, few
from torch import Tensor, nn

import lissom
from lissom import TopK, shrink
from lissom.curves import Curve, Event, Knee, Point, Start, running
from lissom.curves.checks import check_unit, notice_upside_down
from lissom.errors import PathError, RunError
from lissom.saving.graphs import GRAPH
from lissom.saving.modules import MODULE
from lissom.storage import load_tensors, save_tensors


@pytest.fixture(scope="module")
def curve() -> Curve:
    return path(test=test_error, from_scratch=(1e-2,))


def test_points_are_measured_shrunk_and_in_order(curve: Curve) -> None:
    warm = [p for p in curve.points if not p.from_scratch]
    assert len(warm) == 6 * 2 and len(curve.settings) == 6
    strengths = [s.strength for s in curve.settings]
    assert strengths == [None, *sorted(p for p in strengths if p is not None)]
    assert {1e-4, 1e-2, 1.0} < set(strengths)  # the coarse grid of three
    order = [(p.from_scratch, p.strength or 0, p.seed) for p in curve.points]
    assert order == sorted(order)
    for point in curve.points:
        tensors = curve.tensors(point)
        kept = sum(int(tensors[name].count_nonzero()) for name in curve.parameters)
        assert point.size() <= kept
        net = make(0)
        net.load_state_dict(tensors)
        assert point.error == error(net)
        assert point.test_error == pytest.approx(1.05 * error(net) + 0.01)
        counted = lissom.measure(small := shrink(net, EXAMPLE))
        layers = [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
        assert point.sizes == {
            "nonzeros": counted.nonzeros,
            "weights": counted.weights,
            "macs": sum(layer.weight.numel() for layer in layers),
            "bytes": counted.sparse_bytes,
            "bits": 8 * counted.sparse_bytes,
            "coded": counted.coded_bytes,
        }
        read = curve.network(point)
        assert not read.training
        assert torch.allclose(read(EXAMPLE), net(EXAMPLE), atol=1e-6)
        assert sum(p.numel() for p in read.parameters()) == point.size("weights")
    empty = curve.settings[-1]
    assert all(p.empty and p.size() == 0 for p in empty.points)
    assert not any(p.empty for s in curve.settings[:3] for p in s.points)


def test_an_accuracy_as_the_error_is_told() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = path([1e-4, 1e-2, 1.0], error=lambda net: 1 / (1 + error(net)), seeds=1)
    [told] = [w for w in caught if "largest error" in str(w.message)]
    dense, *_, last = found.settings
    assert f"largest error of all 4 strengths, {dense.error:.4g}, and strength 1" in str(
        told.message
    )
    assert f"{last.error:.4g}" in str(told.message) and "1 − accuracy" in str(told.message)
    assert told.filename.endswith("path_cases.py")


@pytest.mark.parametrize(
    ("errors", "is_told"),
    [
        ([0.98, 0.97, 0.2], True),
        ([0.02, 0.02, 0.9], False),
        ([0.03, 0.02, 0.9], False),  # a little sparser is often a little better
        ([0.5, 0.5, 0.5], False),
        ([0.98, 0.2], False),  # of two points nothing can be said
        ([0.98, math.nan, 0.97, 0.2], True),  # one failed
        ([math.nan, 0.97, 0.2, 0.1], False),
    ],
)
def test_who_gives_an_error_is_told_nothing(errors: list[float], is_told: bool) -> None:
    points = [
        Point(n * 0.1 or None, 0, n, Path(), error=e, failed="why" if math.isnan(e) else None)
        for n, e in enumerate(errors)
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notice_upside_down(points)
    assert len(caught) == is_told


def test_every_point_starts_from_the_next_denser_one(curve: Curve) -> None:
    for seed in range(2):
        warm = [p for p in curve.points if p.seed == seed and not p.from_scratch]
        assert sorted(p.number for p in warm) == list(range(6))
        by_number = sorted(warm, key=lambda p: p.number)
        assert [p.strength for p in by_number[:4]] == [None, 1e-4, 1e-2, 1.0]
        for point in by_number[1:]:
            before = [
                p for p in by_number[: point.number] if (p.strength or 0) < (point.strength or 0)
            ]
            nearest = max(before, key=lambda p: p.strength or 0)
            assert point.origin == nearest.folder.name
            old, new = curve.tensors(nearest), curve.tensors(point)
            for name in curve.parameters:
                assert not ((old[name] == 0) & (new[name] != 0)).any()  # what died stays dead
                alive = new[name] != 0
                assert ((new[name] - old[name])[alive].abs() < 0.1).all()


def test_state_goes_from_point_to_point(tmp_path: Path) -> None:
    starts: list[tuple[float | None, Start]] = []

    def told(net: nn.Module, strength: float | None, start: Start) -> Any:
        starts.append((strength, start))
        return fit(net, strength, start)

    path([1e-4, 1e-3, 1e-2], fit=told, seeds=1, from_scratch=[1e-3], out=tmp_path)
    (_, first), (_, second), (_, third), (_, fourth), (strength, scratch) = starts
    assert first.state is None and (first.number, first.seed) == (0, 0)
    assert second.state is not None and second.state["strengths"] == [None]
    assert fourth.state is not None and fourth.state["strengths"] == [None, 1e-4, 1e-3]
    assert torch.equal(fourth.state["moment"], torch.full((2,), 3.0))
    assert [s.number for _, s in starts[:4]] == [0, 1, 2, 3]
    assert (strength, scratch.number, scratch.state) == (1e-3, 0, None)
    assert third.folder == tmp_path / "seed0" / "strength-0.001" / "fit" and third.folder.is_dir()
    assert len({s.folder for _, s in starts}) == 5
    starts.clear()
    path([1e-4, 1e-3, 1e-2], fit=told, seeds=1)
    assert [s.folder for _, s in starts] == [None] * 4


def test_a_state_is_a_copy_also_in_memory() -> None:
    shared = torch.zeros(1)

    def counting(net: nn.Module, strength: float | None, start: Start) -> dict[str, Tensor]:
        if start.state is not None:
            assert start.state["count"] == start.number
        shared.fill_(start.number + 1)
        return {"count": shared}

    path([1e-4, 1e-3, 1e-2], fit=counting, seeds=2)


def test_the_dense_network_has_no_strength_and_a_list_is_not_filled(tmp_path: Path) -> None:
    found = path([0, 1e-3, 1e-1], points=99, out=tmp_path, seeds=1)
    assert [s.strength for s in found.settings] == [None, 0.0, 1e-3, 1e-1]
    again = path(np.array([0, 1e-3, 1e-1]), points=2, out=tmp_path, seeds=1)
    assert again.points == found.points


def test_fractions_fall_from_dense_to_empty() -> None:
    def pruned(net: nn.Module, strength: float | None, start: Start) -> None:
        if strength is not None:
            keep(net, strength)

    found = path((0.8, 0.01), fit=pruned, points=7, seeds=1)
    strengths = [s.strength for s in found.settings]
    assert strengths[0] is None
    assert strengths[1:] == sorted((p for p in strengths if p is not None), reverse=True)
    kept = [sum(int(t.count_nonzero()) for t in found.tensors(p).values()) for p in found.points]
    assert kept == [TOTAL, *(round(p * TOTAL) for p in strengths[1:])]
    assert found.points[-1].origin != "dense"


def test_a_guess_finds_both_ends() -> None:
    found = path((1e-3,), points=10, seeds=1)
    sizes = [s.size() for s in found.settings]
    assert sizes[0] == TOTAL and sizes[1] >= 0.99 * TOTAL and found.settings[-1].points[0].empty
    assert sizes[2] < 0.99 * TOTAL
    assert len(found.settings) == 10


@exhaustive
def test_random_numbers_depend_on_the_point_alone(curve: Curve) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = path(test=test_error, from_scratch=(1e-2,))
    assert timeless(again) == timeless(curve) and same_weights(again, curve)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()

    drawn: dict[Any, tuple[float, ...]] = {}

    def drawing(net: nn.Module, strength: float | None, start: Start) -> None:
        key = start.seed, strength, start.number
        drawn[key] = (torch.rand(1).item(), float(np.random.rand()), random.random())

    path([1e-4, 1e-3, 1e-2], fit=drawing, from_scratch=(1e-4,))
    assert len(set(drawn.values())) == len(drawn) == 10
    assert len({numbers[1] for numbers in drawn.values()}) == 10
    once = dict(drawn)
    path([1e-4, 1e-3, 1e-2], fit=drawing, from_scratch=(1e-4,), out=None)
    assert drawn == once


def test_all_points_of_a_seed_have_one_untrained_network() -> None:
    nets: list[Tensor] = []

    def looking(net: nn.Module, strength: float | None, start: Start) -> None:
        if start.number == 0:
            nets.append(net[0].weight.detach().clone())  # type: ignore[index]

    path([1e-4, 1e-3, 1e-2], fit=looking, from_scratch=(1e-4, 1e-2))
    dense0, dense1, *scratch = nets
    assert not torch.equal(dense0, dense1)
    assert [torch.equal(net, dense0) for net in scratch] == [True, True, False, False]


def test_points_from_scratch_are_apart(curve: Curve) -> None:
    [setting] = curve.from_scratch
    assert setting.strength == 1e-2 and setting.from_scratch
    assert all(p.from_scratch and p.number == 0 and p.origin is None for p in setting.points)
    assert not any(s.from_scratch for s in (*curve.front(), *curve.dominated(), *curve.settings))
    warm = next(s for s in curve.settings if s.strength == 1e-2)
    assert warm.size() == setting.size()
    assert not torch.equal(
        curve.tensors(warm.points[0])["0.weight"], curve.tensors(setting.points[0])["0.weight"]
    )


def test_points_from_scratch_may_come_later(tmp_path: Path, curve: Curve) -> None:
    def never(net: nn.Module, strength: float | None, start: Start) -> None:
        assert start.number == 0 and strength == 1e-2, "a finished point was made again"
        return fit(net, strength, start)  # type: ignore[return-value]

    path(test=test_error, out=tmp_path)
    given = {"fit": never, "retry_failed": True}  # another function, which is said so
    later = path(test=test_error, out=tmp_path, from_scratch=(1e-2,), **given)
    assert timeless(later) == timeless(curve) and same_weights(later, curve)


def test_a_finished_path_is_not_trained_again(tmp_path: Path) -> None:
    whole = path(out=tmp_path)

    def never(net: nn.Module, strength: float | None, start: Start) -> None:
        raise AssertionError("trained again")

    again = path(out=tmp_path, fit=never, retry_failed=True)
    assert again.points == whole.points
    loaded = Curve.load(tmp_path)
    assert loaded == whole and str(loaded) == str(whole)
    assert loaded.to_dict() == json.loads(json.dumps(whole.to_dict()))


class Killed(BaseException):
    """No Exception, so that nothing catches it."""


@pytest.mark.parametrize("moment", few([0, 4], [4]))
@pytest.mark.parametrize("writer", few(["save_network", "save_point", "job.fit"], ["save_point"]))
def test_killed_between_any_two_files_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, writer: str, curve: Curve
) -> None:
    calls = 0

    def dying(function: Any) -> Any:
        def die(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment + 3:
                raise Killed
            return function(*args)

        return die

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if writer == "job.fit":
            path(test=test_error, out=tmp_path, fit=dying(fit))
        else:
            function = getattr(running, writer)
            patch.setattr(running, writer, dying(function))
            path(test=test_error, out=tmp_path)
    finished = len(list(tmp_path.glob("seed*/*/point.json")))
    assert finished == moment + 2
    made = 0

    def counting(net: nn.Module, strength: float | None, start: Start) -> Any:
        nonlocal made
        made += 1
        return fit(net, strength, start)

    given = {"fit": counting, "retry_failed": True}
    resumed = path(test=test_error, out=tmp_path, from_scratch=(1e-2,), **given)
    assert made == 14 - finished
    assert timeless(resumed) == timeless(curve) and same_weights(resumed, curve)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": 3}, "seeds=2, and this call has seeds=3: give the same arguments"),
        ({"points": 7}, "points=6, and this call has points=7"),
        ({"strengths": (1e-4, 2.0)}, r"strengths=\[0.0001, 1.0\], and this call has"),
        ({"test": test_error}, "test=False, and this call has test=True"),
        ({"make_model": lambda seed: nn.Linear(6, 3)}, "parameters={'0.weight'.*another out"),
    ],
)
def test_another_path_in_the_same_folder_is_refused(
    finished: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(PathError, match=message):
        path(out=finished, **changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "path"
    path(out=out)
    return out


def test_networks_of_a_loaded_curve_need_a_factory(finished: Path) -> None:
    loaded = Curve.load(finished)
    point = loaded.points[3]
    with pytest.raises(PathError, match=r"curve.network\(point, make_model\)"):
        loaded.network(point)
    net = loaded.network(point, make)
    assert torch.equal(net(EXAMPLE), Curve.load(finished, make).network(point)(EXAMPLE))
    with pytest.raises(PathError, match="belongs to a point"):
        loaded.network(loaded.settings[0], make)  # type: ignore[arg-type]


def test_folders_that_hold_no_path(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(RunError, match=r"has no path\.json"):
        Curve.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PathError, match=r"out is a folder.*file is a file"):
        path(out=tmp_path / "file")
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    record = json.loads((other / "path.json").read_text())
    (other / "path.json").write_text(json.dumps({**record, "format": "lissom path 0"}))
    with pytest.raises(RunError, match=r"format 'lissom path 0'.*reads 'lissom path 3'"):
        path(out=other)
    (other / "path.json").write_text(json.dumps(record))
    for seed in ("seed0", "seed1"):
        shutil.rmtree(other / seed)
    with pytest.raises(PathError, match=r"no point of the path in .* is finished"):
        Curve.load(other)


def test_without_out_no_file_is_left() -> None:
    found = path(seeds=1, points=3)
    assert found.out.is_dir()
    out = found.out
    del found
    assert not out.exists()


def _killed(net: nn.Module, strength: float | None, start: Start) -> None:
    raise Killed


def test_a_killed_path_without_out_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Killed):
        path(fit=_killed)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_point_is_said_and_the_others_are_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strengths = [1e-4, 1e-3, 1e-2]
    with caplog.at_level(logging.WARNING, "lissom"):
        found = path(strengths, fit=raising(1e-3, "out of luck"), out=tmp_path, progress=False)
    assert [(p.strength, p.failed) for p in found.failed] == [
        (1e-3, "RuntimeError: out of luck")
    ] * 2
    assert "the point at strength 0.001, seed 0 failed: RuntimeError: out of luck" in caplog.text
    assert [s.strength for s in found.settings] == [None, 1e-4, 1e-2]
    assert {p.origin for p in found.settings[-1].points} == {"strength-0.0001"}
    assert math.isnan(found.failed[0].error) and math.isnan(found.failed[0].size())
    assert "raise RuntimeError(message)" in (found.failed[0].folder / "failed.txt").read_text()
    assert "failed: strength 0.001, seed 1: RuntimeError: out of luck" in str(found)
    with pytest.raises(
        PathError, match=r"strength 0\.001, seed 0 has no network: RuntimeError: out"
    ):
        found.network(found.failed[0])
    with pytest.raises(PathError, match="out of luck"):
        found.tensors(found.failed[0])
    assert "retry_failed=True, on the command line --retry-failed, makes it again" in caplog.text


def test_a_failed_point_is_made_again_when_asked(tmp_path: Path) -> None:
    strengths, made = [1e-4, 1e-3, 1e-2], []

    def fragile(net: nn.Module, strength: float | None, start: Start) -> Any:
        made.append((start.seed, strength))
        assert start.folder is not None and not any(start.folder.iterdir())
        (start.folder / "mine").touch()
        if strength == 1e-3 and not mended.exists():
            raise RuntimeError("no file of mine")
        return fit(net, strength, start)

    mended, out = tmp_path / "mended", tmp_path / "path"
    failed = path(strengths, fit=fragile, out=out)
    made.clear()
    assert path(strengths, fit=fragile, out=out).points == failed.points and made == []
    again = path(strengths, fit=fragile, out=out, retry_failed=True)
    assert timeless(again) == timeless(failed) and made == [(0, 1e-3), (1, 1e-3)]
    mended.touch()
    made.clear()
    found = path(strengths, fit=fragile, out=out, retry_failed=True)
    assert not found.failed and made == [(0, 1e-3), (1, 1e-3)]
    assert list(out.glob("seed*/*/failed.txt")) == []
    others = [p for p in found.points if p.strength != 1e-3]
    assert others == [p for p in failed.points if p.strength != 1e-3]  # they stay as they were


@pytest.mark.parametrize("seeds", [1, 2])
def test_if_no_dense_network_can_be_trained_nothing_else_is_tried(
    tmp_path: Path, seeds: int
) -> None:
    made: list[Any] = []

    def failing(net: nn.Module, strength: float | None, start: Start) -> Any:
        made.append(strength)
        raise RuntimeError("no")

    def mended(net: nn.Module, strength: float | None, start: Start) -> Any:
        return fit(net, strength, start)

    given = {"out": tmp_path / "p", "seeds": seeds}
    line = failing.__code__.co_firstlineno + 2
    told = rf"seed 0 failed with RuntimeError: no, at .*test_path.py, line {line}, in failing; "
    for _ in range(2):  # and the next call tries it again
        made.clear()
        with pytest.raises(PathError, match=told + r".*dense/failed\.txt has the traceback"):
            path(fit=failing, from_scratch=[1e-3], **given)
        assert made == [None]  # no other seed is, either
    with pytest.raises(
        PathError, match=r"every point of the path in .* failed, the first with Run"
    ):
        Curve.load(tmp_path / "p")
    # Nothing is there that could be mixed with another function, or with other strengths.
    found = path([1e-4, 1e-3, 1e-2], fit=mended, **given)
    assert not found.failed and len(found.points) == 4 * seeds
    assert not list((tmp_path / "p").glob("seed*/*/failed.txt"))


def test_a_path_stops_at_the_dense_network_of_any_seed(tmp_path: Path) -> None:
    made: list[Any] = []

    def fragile(net: nn.Module, strength: float | None, start: Start) -> Any:
        made.append((start.seed, strength))
        if start.seed == 1 and not mended.exists():
            raise RuntimeError("no")
        return fit(net, strength, start)

    mended = tmp_path / "mended"
    given: dict[str, Any] = {"strengths": [1e-4, 1e-3, 1e-2], "fit": fragile, "out": tmp_path / "p"}
    with pytest.raises(PathError, match="dense network of seed 1 failed with RuntimeError: no, at"):
        path(**given)
    assert made == [(0, None), (1, None)]
    mended.touch()
    made.clear()
    assert not path(**given).failed
    assert made[0] == (1, None) and (0, None) not in made


def test_what_functions_must_not_give_is_told_at_once(tmp_path: Path) -> None:
    """Also where it is only seen at a sparse point, since it would be so at the next one too."""
    made: list[float | None] = []

    def unfinished(net: nn.Module, strength: float | None, start: Start) -> Any:
        made.append(strength)
        if strength is not None and not mended.exists():
            return _gated(net, strength, start)
        return fit(net, strength, start)

    mended = tmp_path / "mended"
    given: dict[str, Any] = {"fit": unfinished, "out": tmp_path / "p", "seeds": 1}
    with pytest.raises(PathError, match=r"needs plain weights.*finalize") as raised:
        path([1e-4, 1e-3, 1e-2], **given)
    assert made == [None, 1e-4]
    assert "stopped at strength 0.0001, seed 0" in raised.value.__notes__[0]
    assert "with retry_failed=True goes on" in raised.value.__notes__[0]
    mended.touch()
    found = path([1e-4, 1e-3, 1e-2], **given, retry_failed=True)
    assert len(found.points) == 4 and not found.failed and made == [None, 1e-4, 1e-4, 1e-3, 1e-2]


def test_a_mended_function_begins_anew_where_nothing_is_kept(tmp_path: Path) -> None:
    def returning(net: nn.Module, strength: float | None, start: Start) -> Any:
        return 3

    with pytest.raises(PathError, match=r"None or a dict.*got 3"):
        path([1e-4, 1e-3, 1e-2], fit=returning, out=tmp_path, seeds=1)
    assert not path([1e-4, 1e-3, 1e-2], out=tmp_path, seeds=1).failed


def _one_nan(net: nn.Module, strength: float | None, start: Start) -> None:
    with torch.no_grad():
        net[0].weight[0, 0] = math.nan  # type: ignore[index]


def _grown(net: nn.Module, strength: float | None, start: Start) -> None:
    net[2] = nn.Linear(12, 4)  # type: ignore[index]


def _gated(net: nn.Module, strength: float | None, start: Start) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    lissom.gate(optimizer, net, {lissom.weights(net): lissom.L0(1e-3)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fit": lambda *_: 1 / 0}, "seed 0 failed with ZeroDivisionError: division by zero"),
        ({"fit": _one_nan}, "diverged: 0.weight is not finite"),
        ({"fit": _grown}, "no shapes, but 2.bias, 2.weight changed"),
        ({"fit": _gated}, "needs plain weights.*finalize"),
        ({"fit": lambda *_: 3}, "None or a dict.*got 3"),
        ({"fit": lambda *_: {"opt": object()}}, "dict of tensors and plain.*cannot be kept"),
        ({"fit": lambda *_: {"f": lambda: 0}}, "dict of tensors and plain.*cannot be kept"),
        ({"error": lambda net: math.nan}, r"error\(net\) gives a finite number, got nan"),
        ({"error": lambda net: None}, r"error\(net\) gives one number, got None"),
        ({"error": lambda net: torch.ones(2)}, r"gives one number, got a tensor of float32 \[2\]"),
        (
            {"error": lambda net: -0.9},
            r"error\(net\) gives a number ≥ 0 .* wrong answers.*got -0.9",
        ),
        ({"test": lambda net: math.inf}, r"test\(net\) gives a finite number, got inf"),
        ({"example_inputs": torch.ones(2, 5)}, "seed 0 failed with"),
    ],
)
def test_if_the_dense_point_fails_the_reason_is_raised(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(PathError, match=message):
        path(seeds=1, points=4, **changed)


def test_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    def interrupted(net: nn.Module, strength: float | None, start: Start) -> Any:
        if strength is not None:
            raise KeyboardInterrupt
        return fit(net, strength, start)

    with pytest.raises(KeyboardInterrupt):
        path(fit=interrupted, out=tmp_path)
    assert len(list(tmp_path.glob("seed*/*/point.json"))) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fit": 3}, "fit is a function, got 3"),
        ({"make_model": nn.Linear(2, 2)}, r"make_model\(seed\) makes .* got the network Linear"),
        ({"make_model": lambda seed: seed}, r"make_model\(0\) gives a torch.nn.Module, got 0"),
        (
            {"make_model": lambda: nn.Linear(2, 2)},
            r"make_model is called as make_model\(seed\), and it takes \(\): too many positional",
        ),
        (
            {"fit": lambda net, strength: None},
            r"fit is called as fit\(net, strength, start\), and it takes \(net, strength\)",
        ),
        ({"error": lambda net, part: 0.5}, r"error is called as error\(net\).* argument: 'part'"),
        ({"error": None}, "error is a function, got None"),
        ({"test": 0.5}, "test is a function, got 0.5"),
        ({"points": 2}, "points=2.*at least points=3"),
        ({"points": 2.5}, "points is a whole number ≥ 1, got 2.5"),
        ({"seeds": 0}, "seeds is a whole number ≥ 1, got 0"),
        ({"jobs": True}, "jobs is a whole number ≥ 1, got True"),
        ({"retry_failed": 1}, "retry_failed is True or False, got 1"),
        (
            {"latency": None},
            "latency is True, False or one of 'torch', 'onnxruntime', .*, got None",
        ),
        ({"latency": "openvin"}, "latency is True, .* got 'openvin'. Did you mean 'openvino'"),
        ({"inputs": 1}, "inputs is True or False, got 1"),
        ({"round_to": 0}, "round_to is a whole number ≥ 1, got 0"),
        ({"progress": True}, "progress is None.*False.*a function.*got True"),
        ({"error_name": ""}, "error_name is text such as 'error' or 'RMSE', got ''"),
        ({"error_unit": 1}, "error_unit is 'fraction'.*'°C'.*got 1"),
        ({"out": 3}, "out is a folder for all points, or a URL of one, got 3"),
        ({"strengths": None}, r"\(first, last\).*\(guess,\).*list.*got None"),
        ({"strengths": ()}, r"\(guess,\).*got \(\)"),
        ({"strengths": "1e-3"}, "got '1e-3'"),
        ({"strengths": (0, 1)}, r"only a list may hold 0.*got \(0, 1\)"),
        ({"strengths": (-1e-3,)}, "only a list may hold 0"),
        ({"strengths": (1, 1)}, "growing.*falling.*got"),
        ({"strengths": [1e-4, 1e-2, 1e-3]}, "growing.*falling.*got"),
        ({"strengths": [1e-4, math.inf, 1]}, "finite numbers, got inf"),
        ({"strengths": [1e-4, None, 1]}, "finite numbers, got None"),
        ({"from_scratch": 1e-3}, "from_scratch is a list of strengths.*got 0.001"),
        ({"from_scratch": (1e-3, 1e-3)}, "each strength once"),
        ({"strength_name": 3}, "strength_name is text such as 'λ'.*got 3"),
        ({"strength_name": " "}, "strength_name is text"),
        ({"example_inputs": "x"}, "example_inputs is a tensor"),
        ({"jobs": 2, "error": partial(print, Lock())}, "error cannot be .*locks.*or take jobs=1"),
        ({"executor": 2}, "executor is a concurrent.futures.Executor, or a function .*, got 2"),
        ({"executor": fit, "jobs": 2}, "jobs=2 are processes of this machine.*one of the two"),
        ({"executor": fit}, "out is a folder that its machines see"),
    ],
)
def test_bad_arguments_are_refused_before_training(changed: dict[str, Any], message: str) -> None:
    def never(net: nn.Module, strength: float | None, start: Start) -> None:
        raise KeyboardInterrupt

    with pytest.raises(lissom.LissomError, match=message):
        path(**({"fit": fit if "jobs" in changed else never} | changed))


@exhaustive
def test_more_processes_give_the_same_curve(tmp_path: Path, curve: Curve) -> None:
    beside = path(test=test_error, from_scratch=(1e-2,), jobs=2)
    assert timeless(beside) == timeless(curve) and same_weights(beside, curve)
    assert beside.network(beside.points[4])(EXAMPLE).shape == (4, 3)


def test_scores_are_the_places_from_which_weights_are_zero() -> None:
    strengths = [1e-4, 1e-3, 1e-2, 1e-1]

    def scripted(net: nn.Module, strength: float | None, start: Start) -> None:
        """Weights of the first row die at the places 0, 1, …; one comes back in between."""
        place = 0 if strength is None else 1 + strengths.index(strength)
        with torch.no_grad():
            row = net[0].weight[0]  # type: ignore[index]
            row[:] = torch.tensor([float(place < at) for at in (0, 1, 2, 4, 5)] + [0.0])
            row[5] = float(place in (0, 2))  # dead at 1, back at 2, dead from 3 on

    found = path(strengths, fit=scripted, seeds=2)
    scores = found.scores(seed=1)
    assert scores.strengths == (None, *strengths)
    assert scores.index["0.weight"][0].tolist() == [0, 1, 2, 4, 5, 3]
    assert (scores.index["0.weight"][1:] == 5).all() and set(scores.index) == set(found.parameters)
    strength = scores.strength("0.weight")[0].tolist()
    assert math.isnan(strength[0]) and strength[1:] == [1e-4, 1e-3, 1e-1, math.inf, 1e-2]
    with pytest.raises(PathError, match=r"seed=7; seeds: \[0, 1\]"):
        found.scores(seed=7)


def test_scores_against_a_loop(curve: Curve) -> None:
    points = [p for p in curve.points if p.seed == 0 and not p.from_scratch]
    scores = curve.scores(0)
    for name in curve.parameters:
        zero = torch.stack([curve.tensors(p)[name] == 0 for p in points])  # [points, *shape]
        expected = torch.tensor(
            [
                next((i for i in range(len(points)) if all(column[i:])), len(points))
                for column in zero.reshape(len(points), -1).T.tolist()
            ]
        )
        assert torch.equal(scores.index[name].reshape(-1), expected)


@exhaustive
def test_scores_of_units_are_those_of_their_last_weight(curve: Curve) -> None:
    scores = curve.scores(0, groups=lambda net: lissom.weights(net).only("0"))
    assert torch.equal(scores.index["0.weight"], curve.scores(0).index["0.weight"])
    units = curve.scores(0, groups=lambda net: lissom.neurons(net, EXAMPLE))
    weights = curve.scores(0).index
    [(name, found)] = units.index.items()
    assert name == "0.weight" and torch.equal(found, weights["0.weight"].amax(dim=1))


def test_scores_of_blocks_of_one_name_are_all_kept() -> None:
    class Split(nn.Module):
        """One layer, whose first six units and last three go to different layers."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(6, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.a(x).relu().split([6, 3], dim=1)
            out: Tensor = self.b(left) + self.c(right)
            return out

    def kill(net: nn.Module, strength: float | None, start: Start) -> None:
        with torch.no_grad():
            if strength is not None:
                net.a.weight[:4] = 0  # type: ignore[union-attr, index]

    strengths = [1e-4, 1e-3, 1e-2]
    found = path(
        strengths, fit=kill, make_model=lambda seed: Split(), seeds=1, error=lambda net: 0.5
    )
    units = found.scores(0, groups=lambda net: lissom.neurons(net, EXAMPLE)).index
    assert sorted(units) == ["a.weight", "a.weight[1]"]
    assert sorted(torch.cat(list(units.values())).tolist()) == [1] * 4 + [4] * 5


def test_scores_of_groups_need_a_network(curve: Curve) -> None:
    with pytest.raises(PathError, match="needs the function that makes an untrained one"):
        Curve.load(curve.out).scores(0, groups=lissom.neurons)
    with pytest.raises(PathError, match="groups\\(net\\) gives groups"):
        curve.scores(0, groups=lambda net: "neurons")  # type: ignore[arg-type, return-value]


def test_a_table_says_what_the_strength_is(tmp_path: Path) -> None:
    made = path([1e-4, 1e-3, 1e-2], seeds=1, strength_name="λ", out=tmp_path)
    assert str(made).split("error")[0].strip() == "strength (λ)"
    assert str(Curve.load(tmp_path)) == str(made)


def test_tables_and_json(curve: Curve, caplog: pytest.LogCaptureFixture) -> None:
    lines = str(curve).splitlines()
    heads = ["strength", "error", "(%)", "test", "nonzeros", "weights", "macs"]
    assert lines[0].split()[:7] == heads
    assert lines[2].split()[0] == "dense" and "±" in lines[2] and "123" in lines[2]
    assert lines[-1].split()[-2:] == ["from", "scratch"]
    told = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert len(told["points"]) == 14 and len(told["settings"]) == 7
    assert told["points"][0]["sizes"]["nonzeros"] == TOTAL
    assert str(curve.settings[0]).startswith("dense: error ")
    assert str(curve.from_scratch[0]).startswith("from scratch, strength 0.01: error ")


def test_networks_are_timed_together_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[str]] = []

    def latency(networks: dict[str, nn.Module], example_inputs: Tensor, runtime: str) -> Any:
        timed.append([runtime, *networks])
        found = lissom.latency(networks, example_inputs, rounds=2)  # wherever it is asked for
        return {name: replace(one, runtime=runtime) for name, one in found.items()}

    monkeypatch.setattr("lissom.curves.latencies.latency", latency)
    given: dict[str, Any] = {"strengths": [1e-2, 1.0], "points": 3, "seeds": 1, "latency": True}
    events: list[Event] = []
    found = path(**given, out=tmp_path, progress=events.append)
    assert (events[-1].kind, events[-1].point, events[-1].done) == ("latency", None, 3)
    names = ["torch", *(f"seed0/{name}" for name in ("dense", "strength-0.01", "strength-1.0"))]
    assert timed == [names] and found.axes[-1] == "latency"
    for point in found.points:
        assert 0 < point.size("latency") == found.latency(point).seconds < 1
        assert found.latency(point).rounds == 2
    assert found.latency(found.points[0]).ratio == 1
    assert found.budget(latency=1.0).size("latency") < 1
    assert "s (1.00×)" in str(found) and str(Curve.load(tmp_path)) == str(found)
    assert path(**given, out=tmp_path) == found and len(timed) == 1
    more = path(**given, out=tmp_path, from_scratch=[1e-2])
    names.append("seed0/scratch-0.01")
    assert timed[1:] == [names] and len(more.points) == 4
    pytest.importorskip("onnxruntime")
    assert (found.runtime, "latency, torch" in str(found)) == ("torch", True)
    elsewhere = path(**{**given, "latency": "onnxruntime"}, out=tmp_path)
    assert timed[2:] == [["onnxruntime", *names[1:]]]
    assert (elsewhere.runtime, "latency, onnxruntime" in str(elsewhere)) == ("onnxruntime", True)
    assert Curve.load(tmp_path).runtime == "onnxruntime"
    knee = Knee(elsewhere.settings[0], "latency", {})
    assert re.match(r"knee at dense: [\d.]+ (µs|ms) latency, error ", str(knee))
    (tmp_path / "latencies.json").unlink()  # as after a kill before they were timed
    untimed = Curve.load(tmp_path)
    assert "latency" not in untimed.axes
    with pytest.raises(PathError, match="were not timed"):
        untimed.latency(untimed.points[0])
    with pytest.raises(PathError, match="no axis 'latency'"):
        untimed.front("latency")


def test_latencies_of_earlier_versions_stand_with_the_points(tmp_path: Path) -> None:
    found = path([1e-4, 1e-3, 1e-2], seeds=1, out=tmp_path)
    for place, point in enumerate(found.points):
        file = point.folder / "point.json"
        record = json.loads(file.read_text())
        del record["crc32"]
        record["sizes"]["latency"] = 0.001 * (1 + place)
        file.write_text(json.dumps(record))
        once = Curve.load(tmp_path)
        assert ("latency" in once.axes) == (place == 3)  # on which all of them can be compared
    assert [p.size("latency") for p in once.points] == [0.001, 0.002, 0.003, 0.004]


def test_a_path_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    whole = path([1e-4, 1e-3, 1e-2], seeds=1, out=tmp_path)
    record = json.loads((tmp_path / "path.json").read_text())
    for name in ("crc32", "error_name", "error_unit", "round_to", "inputs"):
        del record[name]
    (tmp_path / "path.json").write_text(json.dumps(record))
    assert Curve.load(tmp_path) == whole == path([1e-4, 1e-3, 1e-2], seeds=1, out=tmp_path)
    with pytest.raises(PathError, match="error_unit='fraction', and this call has error_unit='°C'"):
        path([1e-4, 1e-3, 1e-2], seeds=1, out=tmp_path, error_unit="°C")


def test_errors_have_a_name_and_a_unit(tmp_path: Path, curve: Curve) -> None:
    given: dict[str, Any] = {"strengths": [1e-4, 1e-3, 1e-2], "seeds": 1}
    named = path(**given, error_name="RMSE", error_unit="°C", test=test_error, out=tmp_path)
    assert Curve.load(tmp_path) == named
    assert (named.error_name, named.error_unit) == ("RMSE", "°C")
    dense = named.settings[0]
    assert str(dense).startswith(f"dense: RMSE {dense.error:.4g} °C, ")
    assert "RMSE (°C)" in str(named).splitlines()[0] and f" {dense.error:.4g} " in str(named)
    dense = curve.settings[0]
    assert (curve.error_name, curve.error_unit) == ("error", "fraction")
    percent = f"{100 * dense.error:.4g} ± {100 * dense.error_std:.2g}"
    assert str(dense).startswith(f"dense: error {percent} %, ")
    assert "error (%)" in str(curve).splitlines()[0] and f" {percent} " in str(curve)
    assert curve.to_dict()["error_unit"] == "fraction"
    loss = path(**given, error=lambda net: 2 * error(net))
    assert loss.error_unit == "" and loss.settings[0].scale.heading == "error"  # 1.8 is no fraction
    assert (check_unit(None, "loss"), check_unit(None, "error")) == ("", "fraction")


def test_shrink_is_handed_its_options() -> None:
    def dead_input(net: nn.Module, strength: float | None, start: Start) -> Any:
        with torch.no_grad():
            net[0].weight[:, 0] = 0  # type: ignore[index]
            if strength is not None:
                net[0].weight[:3], net[0].bias[:3] = 0, 0  # type: ignore[index]

    given: dict[str, Any] = {"strengths": [1e-4, 1e-3, 1e-2], "seeds": 1, "fit": dead_input}
    wide = path(**given, inputs=True, round_to=4)
    narrow = path(**given)
    for found, read, units in ((wide, 5, 12), (narrow, 6, 9)):
        point = found.points[1]
        net = found.network(point)
        layer = next(module for module in net.modules() if isinstance(module, nn.Linear))
        assert (layer.in_features, layer.out_features) == (read, units)
        whole = make(0)
        whole.load_state_dict(found.tensors(point))
        assert torch.allclose(net(EXAMPLE), whole(EXAMPLE), atol=1e-6)


def test_a_curve_without_a_knee_has_a_table() -> None:
    found = path([1e-4, 1e-3, 1e-2], fit=raising(1e-3, "no"), error=lambda net: 0.5, seeds=1)
    with pytest.raises(PathError, match="a knee needs a front of three settings"):
        found.knee()
    assert len(str(found).splitlines()) == 6 and "nonzeros" in str(found)


def test_a_network_of_a_curve_is_as_any_that_was_shrunk(curve: Curve, tmp_path: Path) -> None:
    for point in (curve.points[0], curve.points[6]):
        net = curve.network(point)
        whole = make(0)
        whole.load_state_dict(curve.tensors(point))
        told = shrink(whole, EXAMPLE).shrinkage
        assert net.shrinkage.to_dict() == told.to_dict()  # type: ignore[union-attr]
        assert str(net.shrinkage) == str(told)
        lissom.save(net, tmp_path / "small.safetensors")
        again = lissom.load(tmp_path / "small.safetensors", lambda: make(0))
        lissom.save(again, tmp_path / "again.safetensors")
        assert torch.equal(again(EXAMPLE), net(EXAMPLE))
        assert str(again.shrinkage) == str(told)
        assert lissom.measure(again).nonzeros == point.size()
        one, two = (tmp_path / f"{name}.safetensors" for name in ("small", "again"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_file_of_an_earlier_version_without_a_report_is_read(
    tmp_path: Path, as_graph: bool
) -> None:
    file, net = tmp_path / "small.safetensors", make(0)
    keep(net, 0.1)
    small = shrink(net, EXAMPLE, as_graph=as_graph)
    lissom.save(small, file)
    record, tensors = load_tensors(file, MODULE, GRAPH)
    kind = record.pop("format")
    del record["report"]
    save_tensors(tensors, file, kind, record)
    for _ in range(2):  # and what was read can be saved
        read = lissom.load(file, lambda: make(0))
        assert torch.equal(read(EXAMPLE), small(EXAMPLE))
        assert read.shrinkage.as_graph == as_graph  # type: ignore[union-attr]
        lissom.save(read, file)


class Tied(nn.Module):
    """Tied weights, a mask that holds −∞, and a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("mask", torch.tensor([-math.inf, 0.0]))
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.norm(self.a(x)).relu()) * self.scale
        return out


def test_ties_statistics_and_all_buffers_go_on() -> None:
    def training(net: nn.Module, strength: float | None, start: Start) -> None:
        assert net.training and isinstance(net, Tied)
        assert net.a.weight is net.b.weight
        assert net.scale.item() == 1 + start.number
        assert int(net.norm.num_batches_tracked) == start.number  # type: ignore[arg-type]
        net(EXAMPLE)
        net.scale += 1

    found = path(
        [1e-4, 1e-3, 1e-2],
        fit=training,
        make_model=lambda seed: Tied(),
        error=lambda net: 0.5,
        seeds=1,
    )
    assert not found.failed
    assert found.network(found.points[-1])(EXAMPLE).shape == (4, 6)
    assert found.points[0].size() == 36 + 6 + 6 + 6  # W once, two biases, γ; β is 0


@exhaustive
def test_a_warm_path_on_digits() -> None:
    data = lissom.data.load("digits").hold_out(200, seed=0)
    assert data.valid_x is not None and data.valid_y is not None
    starts: dict[float | None, float] = {}
    untrained: list[float | None] = []

    def make_model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def wrong(net: nn.Module, x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return float((net(x).argmax(1) != y).float().mean())

    def train(net: nn.Module, strength: float | None, start: Start) -> None:
        starts[None if start.number == 0 else strength] = wrong(net, data.valid_x, data.valid_y)
        untrained.extend([strength] if start.number == 0 else [])
        opt = torch.optim.Adam(net.parameters(), lr=3e-3)
        if strength is not None:
            lissom.proximal(opt, {lissom.weights(net): TopK(fraction=strength)})
        for _ in range(20 if start.number == 0 else 5):
            for batch in torch.randperm(len(data.train_y)).split(64):
                x, y = data.train_x[batch], data.train_y[batch]
                opt.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                opt.step()

    found = lissom.path(
        train,
        [0.3, 0.1, 0.03],
        make_model=make_model,
        error=lambda net: wrong(net, data.valid_x, data.valid_y),
        test=lambda net: wrong(net, data.test_x, data.test_y),
        example_inputs=data.train_x[:2],
        seeds=1,
        from_scratch=(0.1,),
    )
    dense, third, tenth, last = found.settings
    assert dense.error < 0.08 and starts[None] > 0.5
    assert starts[0.3] == dense.error and starts[0.1] == third.error  # it began where that ended
    weights = 64 * 32 + 32 * 10
    [point] = tenth.points
    alive = {name: int(t.count_nonzero()) for name, t in found.tensors(point).items()}
    assert sum(alive.values()) == round(0.1 * weights) + 42 >= point.size()
    assert found.within(error=0.15).size() <= tenth.size()
    [scratch] = found.from_scratch
    assert untrained == [None, 0.1]  # 20 epochs for these two, and 5 for the others
    assert tenth.error <= scratch.error + 0.03
    small = found.network(found.budget(nonzeros=300).points[0])
    assert wrong(small, data.test_x, data.test_y) == found.budget(nonzeros=300).test_error
    assert last.size() < round(0.03 * weights) + 42  # without biases of dead neurons
    assert left(small) > 0


def test_an_empty_network_is_known_by_its_answers() -> None:
    class Pair(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale, self.drop = scale, nn.Dropout()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(3), self.drop(x * self.scale + 1)

    assert running._empty(Pair(0).eval(), EXAMPLE)
    assert not running._empty(Pair(1).eval(), EXAMPLE)  # one answer of two depends on it

    def emptied(net: nn.Module, strength: float | None, start: Start) -> None:
        with torch.no_grad():
            net[0].weight.zero_()  # type: ignore[index]
        assert net.training

    found = path(
        [1e-4, 1e-3, 1e-2],
        fit=emptied,
        make_model=lambda seed: nn.Sequential(nn.Linear(6, 3), nn.Dropout()),
        error=lambda net: float(net.training),
        seeds=1,
    )
    assert all(p.empty and p.error == 0 for p in found.points)  # measured in evaluation mode

"""The page about a run: it holds what the run did, and nothing from outside."""

import re
from pathlib import Path

import pytest

from lissom.errors import RunError
from lissom.report import history, write_report
from lissom.storage import append_event, save_json
from lissom.training import Evaluation


def event(epoch: int) -> dict[str, object]:
    left = {"weights": 100, "nonzeros": 100 - 10 * epoch}
    return {
        "event": "evaluation",
        "epoch": epoch,
        "train": {"loss": 0.5, "error": 0.1 / epoch},
        "test": {"loss": 0.5, "error": 0.2 / epoch},
        "nonzeros": {"fc1.weight": left, "total": left},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for epoch in (1, 2, 4):
        append_event(event(epoch), tmp_path / "events.jsonl")
    about = {
        "title": "a <b> & c",
        "command": "lissom train x",
        "seed": 3,
        "versions": {"torch": "2"},
    }
    save_json({**event(4), **about}, tmp_path / "result.json", "lissom result 1")
    recipe = {"recipe": {"title": "a <b> & c"}, "seed": 3}
    save_json(recipe, tmp_path / "recipe.json", "lissom recipe 1")
    return tmp_path


def test_figures_hold_the_events() -> None:
    error, size = history([Evaluation.from_dict(event(epoch)) for epoch in (1, 2, 4)]).axes
    assert all(float(tick).is_integer() for axes in (error, size) for tick in axes.get_xticks())
    lines = {line.get_label(): line.get_ydata() for line in error.lines}
    assert set(lines) == {"train", "test"}  # nothing was held out
    assert list(lines["test"]) == pytest.approx([20, 10, 5])
    assert list(size.lines[0].get_xdata()) == [1, 2, 4]
    assert list(size.lines[-1].get_ydata()) == [90, 80, 60]


def test_page_stands_alone_and_escapes(run: Path) -> None:
    page = write_report(run).read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "5.00 %" in page and "40.00 %" in page and "seed 3" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert page.count("<svg") == 1


def test_a_run_is_judged_by_the_error_it_names(run: Path) -> None:
    judged = {**event(4), "judged_by": {"name": "RMSE", "unit": "°C"}}
    about = {"title": "t", "command": "c", "seed": 3, "versions": {}}
    save_json({**judged, **about}, run / "result.json", "lissom result 1")
    append_event({**judged, "epoch": 5}, run / "events.jsonl")
    (run / "small.safetensors").write_bytes(bytes(1234))
    page = write_report(run).read_text()
    assert "<b>0.05 °C</b>" in page and "1.2 kB" in page
    error, _ = history([Evaluation.from_dict(judged)]).axes
    assert error.get_ylabel() == "RMSE, °C"
    assert list(error.lines[1].get_ydata()) == pytest.approx([0.05])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing has no recipe\.json: is it a run directory"):
        write_report(tmp_path / "nothing")


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        write_report(run)

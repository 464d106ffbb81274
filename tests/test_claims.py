"""The table of what five documents report: verdicts, and what records with gaps come to."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive

import lissom
from lissom.recipes import make_model, read_recipe
from lissom.recipes.runs import keep_record, keep_weights
from lissom.recipes.specs import Record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import claims  # noqa: E402
import formanek_claims  # noqa: E402
import tables  # noqa: E402
import vgg_tables  # noqa: E402
from verdicts import Found, against, holds, smaller  # noqa: E402

ROWS = [
    (row, " ".join(row["reports"] for row in document["rows"]))
    for document in vgg_tables.CLAIMS.values()
    for row in document["rows"]
]


@pytest.mark.parametrize(
    ("ours", "published", "higher", "sign"),
    [
        ([1.2, 1.3], "1.4", False, 1),
        ([1.36], "1.4", False, 0),  # what rounds to 1.4 is as good
        ([1.34], "1.4", False, 1),
        ([1.3, 1.5, 1.1], "1.4", False, 0),  # within the spread over seeds
        ([1.89, 1.96, 1.82], "1.76", False, -1),
        ([12.0], "16", True, -1),
        ([15.6], "16", True, 0),
        ([17.0], "16", True, 1),
    ],
)
def test_figures_are_compared_within_spread_and_rounding(
    ours: list[float], published: str, higher: bool, sign: int
) -> None:
    assert against(ours, published, higher=higher) == sign


def test_sizes_are_the_same_within_five_per_cent() -> None:
    assert [smaller(n, 100) for n in (94, 96, 104, 106)] == [1, 0, 0, -1]


def test_a_verdict_says_what_was_better_and_what_worse() -> None:
    assert Found("", {}).verdict == "not run"
    assert Found("", {"a": 0, "b": holds(True)}).verdict == "reproduced"
    assert Found("", {"a": 0, "b": 1}).verdict == "beaten"
    assert Found("", {"a": 0, "b": holds(False)}).verdict == "contradicted"
    mixed = Found("", {"error": 1, "weights": -1, "MACs": 0}).verdict
    assert mixed == "beaten in error, contradicted in weights"


@pytest.mark.parametrize(("row", "text"), ROWS, ids=[row["reports"] for row, _ in ROWS])
def test_a_row_prints_the_figures_it_compares_and_has_its_evidence(
    row: dict[str, Any], text: str
) -> None:
    if "method" in row:
        theirs = claims.published.row("gates", row["network"], row["method"])
        assert theirs["left"] in row["reports"] and f"{theirs['error']} %" in row["reports"]
    if row.get("check") == "poster":
        theirs = claims.published.PUBLISHED["poster"][row["label"]]
        figures = (f"{theirs['error']} %", theirs["weights"], theirs["neurons"])
        assert all(figure in row["reports"] for figure in figures)
    figures = [v for v in row.values() if isinstance(v, str) and re.fullmatch(r"[\d.,]+", v)]
    assert all(figure in text for figure in figures)
    assert row.get("check") in claims.CHECKS or (row["verdict"] == "not run" and row["why"])
    if "page" in row:
        page, _, anchor = row["page"].partition("#")
        assert not anchor or f"{{ #{anchor} }}" in (ROOT / "docs" / page).read_text()
    assert "page" in row or "check" not in row


def test_every_row_has_a_verdict() -> None:
    columns, rows = claims.table(tables.load)
    assert len(rows) == len(ROWS) and {len(row) for row in rows} == {len(columns)}
    verdict = columns.index("verdict")
    known = r"\*\*(reproduced|beaten|contradicted|not run|beaten in .*, contradicted in .*)\*\*"
    assert all(re.fullmatch(known, row[verdict]) for row in rows)
    whole = [n for n in map(int, re.findall(r"(\d+) (?=\w)", claims.counts(rows)))]
    assert whole[0] == len(rows) == sum(whole[1:])
    ran = [row for row in rows if "not run" not in row[verdict]]
    assert all("`" in row[-1] or "9,242,730" in row[1] for row in ran)  # the record is named


# A study of the VGG with gaps. Its numbers are invented, and nothing but these tests reads them.
def run(label: str, value: float | None, left: float, error: float, seed: int) -> dict[str, Any]:
    code = {"files": ["benchmarks/verdicts.py"], "digest": "0" * 16}
    return {
        "recipe": "formanek-channels-l1" if label == "L1" else "digits-demo",
        "label": label,
        "value": value,
        "set": [],
        "seed": seed,
        "valid": {"error": error + 0.01},
        "test": {"error": error},
        "nonzeros": {
            "conv1.weight": {"weights": 1000, "nonzeros": round(10 * left)},
            "fc1.weight": {"weights": 500, "nonzeros": 500},
            "total": {"weights": 1500, "nonzeros": round(10 * left) + 500},
        },
        "code": code,
        "coded": round(40 * left),
    }


def study(settings: dict[tuple[str, float | None], tuple[float, float]]) -> dict[str, Any]:
    runs = [
        run(label, value, left, error + 0.001 * seed, seed)
        for seed in (0, 1)
        for (label, value), (left, error) in settings.items()
    ]
    return {"runs": runs}


DENSE = study({("dense", None): (100, 0.25)})
KERNELS = study(
    {
        ("L1", 20.0): (90, 0.27),
        ("L1", 40.0): (9, 0.29),
        ("threshold", 0.1): (50, 0.22),
        ("threshold", 0.4): (5, 0.26),
        ("compress rate", 0.5): (50, 0.245),
    }
)


def loader(**records: dict[str, Any]) -> Any:
    known = {name.replace("_", "-"): record for name, record in records.items()}

    def load(name: str) -> dict[str, Any]:
        if name not in known:
            raise FileNotFoundError(name)
        return known[name]

    return load


def verdicts(load: Any) -> dict[str, Found]:
    return {
        row["reports"]: formanek_claims.CHECKS[row["check"]](load, row)
        for row in vgg_tables.CLAIMS["formanek"]["rows"]
        if "of" in row
    }


def starting(found: dict[str, Found], text: str) -> Found:
    [one] = [one for reports, one in found.items() if reports.startswith(text)]
    return one


def test_claims_are_judged_by_the_runs_there_are() -> None:
    found = verdicts(loader(vgg_dense=DENSE, vgg_kernels=KERNELS))
    gains = starting(found, "kernels: both L0 gain 2 to 3")
    assert gains.signs == {"threshold": 1, "compress rate": -1}  # + 3.0 and + 0.5 points
    assert "threshold 0.1: 3.00 ± 0.07 points with 50.00 % removed" in gains.ours
    assert gains.seeds == "2 (10 runs)"
    assert starting(found, "kernels: around 50 %").verdict == "reproduced"
    assert starting(found, "kernels: L1 loses").verdict == "reproduced"
    assert starting(found, "kernels: no λ").verdict == "reproduced"
    best = starting(found, "kernels, threshold, best")
    assert best.signs == {"weights": 1, "accuracy": 1}  # − 1.0 points at 5 %
    assert best.published == "-1.47 points"
    assert starting(found, "kernels: threshold is ahead").verdict == "reproduced"
    assert starting(found, "weights: L1 is best").verdict == "not run"
    assert starting(found, "channels: L1 falls").verdict == "not run"


def test_claims_that_do_not_hold_are_contradicted() -> None:
    worse = study(
        {
            ("L1", 20.0): (40, 0.24),
            ("threshold", 0.1): (50, 0.26),
            ("threshold", 0.4): (5, 0.30),
            ("L1", 40.0): (5, 0.28),
        }
    )
    found = verdicts(loader(vgg_dense=DENSE, vgg_kernels=worse))
    for text in ("kernels: L1 loses", "kernels: no λ", "kernels: threshold is ahead"):
        assert starting(found, text).verdict == "contradicted", text
    assert "λ = 20 removes 60 %" in starting(found, "kernels: no λ").ours
    assert starting(found, "kernels, threshold, best").signs == {"accuracy": -1}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((21, 0.30), (27, 0.77), "reproduced"),  # the chosen epoch is one before it has fallen
        ((45, 0.30), (9, 0.77), "contradicted"),  # elsewhere
        ((21, 0.30), (19, 0.35), "contradicted"),  # no more than the compress rate
    ],
)
def test_l1_falls_where_one_λ_loses_more_at_once_than_the_compress_rate(
    before: tuple[int, float], after: tuple[int, float], verdict: str
) -> None:
    channels = study(
        {
            ("L1", 20.0): before,
            ("L1", 30.0): after,
            ("L1", 10.0): (60, 0.28),
            ("compress rate", 0.5): (50, 0.25),
            ("compress rate", 0.2): (20, 0.27),
            ("compress rate", 0.1): (10, 0.34),
        }
    )
    found = verdicts(loader(vgg_dense=DENSE, vgg_channels=channels))
    falls = starting(found, "channels: L1 falls")
    assert falls.verdict == verdict
    assert "compress rate -7.00 points from 80 to 90 % removed" in falls.ours


def test_without_records_nothing_has_run() -> None:
    found = verdicts(loader())
    assert {one.verdict for one in found.values()} == {"not run"}
    assert vgg_tables.vgg_figure(loader(), "kernels") is None
    assert vgg_tables.dense_table(loader())[1][1][:2] == ["lissom", "not run yet"]


def test_a_table_says_what_has_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [("L1", 20.0), ("L1", 80.0), ("threshold", 0.1)]
    monkeypatch.setattr(vgg_tables, "asked", lambda study: asked)
    load = loader(vgg_dense=DENSE, vgg_kernels=KERNELS)
    columns, rows = vgg_tables.runs_table("vgg-kernels", load)
    assert [row[0] for row in rows[:3]] == ["L1 20", "L1 80", "threshold 0.1"]
    assert len(rows) == 6  # and what ran without being asked for
    assert rows[1][1:] == ["not run yet", *[""] * (len(columns) - 2)]
    shown = dict(zip(columns, rows[2], strict=True))
    assert shown["weights of convolutions left"] == "50.00 %"
    assert shown["against dense, points"] == "+3.00"
    assert (shown["seeds"], shown["kB by entropy"]) == ("2", "2.0")
    assert "MACs ÷" not in shown, "nothing was shrunk"
    *_, ours = vgg_tables.dense_table(load)[1]
    assert ours[1:5] == ["1,500", "", "73.95 (0.005)", "74.95 (0.005)"]


def test_a_figure_has_each_penalty_and_the_published_points() -> None:
    load = loader(vgg_dense=DENSE, vgg_kernels=KERNELS)
    figure = vgg_tables.vgg_figure(load, "kernels")
    assert figure is not None
    axes = figure.axes[0]
    _, labels = axes.get_legend_handles_labels()
    names = {*vgg_tables.PENALTIES, "threshold, published", "L1, published", "dense"}
    assert set(labels) == names
    [point] = [line for line in axes.lines if line.get_label() == "threshold, published"]
    assert point.get_xydata().tolist() == [[94.25, pytest.approx(-1.47)]]
    importlib.import_module("matplotlib.pyplot").close(figure)


def test_a_page_has_the_figures_that_there_are_runs_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name, record in {"vgg-dense": DENSE, "vgg-kernels": KERNELS}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    kernels, weights = tables.made("vgg-kernels"), tables.made("vgg-weights")
    assert "](../figures/vgg-kernels.svg)" in kernels and "figures" not in weights
    assert "](../figures/vgg-bytes.svg)" in tables.made("vgg-bytes")
    assert kernels.splitlines()[-1].startswith("*vgg-dense.json, vgg-kernels.json: ")
    assert "| threshold 0.4 | 5.00 % |" in kernels
    assert "not run yet" in tables.made("vgg-full-speed")
    (tmp_path / "vgg-dense.json").unlink()
    assert "figures" not in tables.made("vgg-kernels")


def test_bytes_are_shown_for_settings_that_no_other_beats() -> None:
    load, studies = loader(vgg_dense=DENSE, vgg_kernels=KERNELS), ("vgg-dense", "vgg-kernels")
    _, rows = vgg_tables.bytes_table(load, studies)
    ours = [row[:2] for row in rows if "lissom" not in row[0] and "LilNetX" not in row[0]]
    names = [["**vgg-kernels, threshold 0.4**", "0.2"], ["**vgg-kernels, threshold 0.1**", "2.0"]]
    assert ours == names
    assert [row[1] for row in rows[2:]] == ["129", "76"]
    assert vgg_tables.bytes_table(loader(), studies)[1][0][:2] == ["lissom", "not run yet"]
    figure = vgg_tables.bytes_figure(load, studies)
    assert figure is not None and vgg_tables.bytes_figure(loader(), studies) is None
    assert len(figure.axes[0].containers) == 2
    importlib.import_module("matplotlib.pyplot").close(figure)


def test_what_studies_ask_for_is_read() -> None:
    assert ("L1", 20.0) in vgg_tables.asked("formanek-kernels")
    assert vgg_tables.asked("no such study") == []


@exhaustive
def test_shrunk_networks_are_timed_beside_the_dense_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    shrunk_speed = importlib.import_module("shrunk_speed")
    entry = '{ recipe = "digits-channels", label = "TopK", vary = "penalties.0.TopK.fraction"'
    plan = f'title = "A trial"\nseeds = 1\nruns = [{entry}, values = [0.5, 0.25, 0.75] }}]\n'
    (tmp_path / "studies.toml").write_text(f"[tiny-trial]\n{plan}")
    monkeypatch.setattr(shrunk_speed, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    recipe = read_recipe("digits-channels")
    record = Record(recipe=recipe, seed=0, shape=[1, 8, 8], classes=10)
    for value, removed in ((0.5, 4), (0.25, 0)):  # of the third there is no run, and the second
        net = make_model(recipe, (1, 8, 8), 10)  # has nothing to remove
        for family in lissom.channels(net, torch.rand(2, 1, 8, 8)).blocks:
            family.scale_((torch.arange(len(family.labels)) >= removed).float())
        run = tmp_path / "runs" / "tiny-trial" / f"TopK-{value}-seed0"
        keep_record(record, run)
        keep_weights(net, run)
        (run / "result.json").write_text("{}")
    shrunk_speed.main(["tiny-trial"], runs=tmp_path / "runs", rounds=1, busy=True)
    found = json.loads((tmp_path / "results" / "tiny-trial-speed.json").read_text())
    assert [one["name"] for one in found["networks"]] == ["dense", "TopK-0.5"]
    assert found["missing"] == ["TopK-0.75"]
    dense, small = found["networks"]
    assert small["macs"] < dense["macs"] and small["weights"] < dense["weights"]
    assert small["times"]["32"]["seconds"] > small["times"]["1"]["seconds"] > 0
    assert small["times"]["1"]["threads"] == 1
    columns, rows = importlib.import_module("runtime_table").shrunk(found)
    assert {len(row) for row in rows} == {len(columns)}
    shown = dict(zip(columns[:4], rows[1][:4], strict=True))
    assert shown["MACs ÷"] == f"{dense['macs'] / small['macs']:.2f}"
    assert rows[2][:2] == ["TopK-0.75", "not run yet"]
    with pytest.raises(SystemExit, match="no run of tiny-trial is finished"):
        shrunk_speed.main(["tiny-trial"], runs=tmp_path / "elsewhere", busy=True)

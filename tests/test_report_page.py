"""The page about curves: what it holds is what the curves say, and it needs nothing else."""

import base64
import json
import math
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from path_cases import EXAMPLE, made_up, path, raising, test_error
from products import exhaustive, few
from safetensors.torch import load as read_tensors
from torch import nn

from lissom.curves import Curve, Start
from lissom.curves.storing import save_point
from lissom.errors import PathError, RunError
from lissom.recipes import Record, keep_record, make_model, read_recipe
from lissom.report import class_accuracy, curve_data, write_curve_report
from lissom.storage import load_json, save_json

HOSTILE = "</script><script>alert(1)</script><b onmouseover='x'>&\"$^$"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


class Page(HTMLParser):
    """The tags of a page, the text of each, and its data."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open = ""
        self.feed(self.text)
        [raw] = self.words["script data"]

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        self.data: dict[str, Any] = json.loads(raw, parse_constant=refuse)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        name = dict(attrs).get("id")
        self._open = f"{tag} {name}" if tag == "script" and name else tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.setdefault(self._open, []).append(data.strip())


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    out = tmp_path_factory.mktemp("l0")
    made = path(STRENGTHS, test=test_error, out=out, from_scratch=(1e-3,))
    y = torch.tensor([0, 1, 2, 0])
    class_accuracy(made, EXAMPLE, y, names=["cat", "<b>dog", "gnu"]).save(out)
    return made


@pytest.fixture(scope="module")
def page(curve: Curve, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_curve_report([curve.out], tmp_path_factory.mktemp("page") / "report.html"))


def reported(folder: Path, *curves: Curve) -> Page:
    return Page(write_curve_report([curve.out for curve in curves], folder / "report.html"))


def flat(seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2))


def test_the_data_are_the_curve(page: Page, curve: Curve) -> None:
    [shown] = page.data["curves"]
    settings = [*curve.settings, *curve.from_scratch]
    assert len(shown["points"]) == len(settings)
    for point, setting in zip(shown["points"], settings, strict=True):
        assert (
            point["strength"] == setting.strength and point["from_scratch"] == setting.from_scratch
        )
        assert point["error"] == pytest.approx([setting.error, setting.error_std])
        tests = [one.test_error for one in setting.points]
        assert point["test"] == pytest.approx([setting.test_error, statistics.stdev(tests)])
        for axis in curve.axes:
            assert point["sizes"][axis] == pytest.approx(
                [setting.size(axis), setting.size_std(axis)]
            )
        for network, one in zip(point["networks"], setting.points, strict=True):
            assert (network["seed"], network["error"]) == (one.seed, one.error)
            assert network["sizes"] == one.sizes and network["test"] == one.test_error


@pytest.mark.parametrize("axis", ["nonzeros", "weights", "macs", "bytes"])
def test_front_and_knee_are_told_for_each_axis(page: Page, curve: Curve, axis: str) -> None:
    [shown] = page.data["curves"]
    on = shown["axes"][axis]
    settings = [*curve.settings, *curve.from_scratch]
    assert [settings[at] for at in on["front"]] == list(curve.front(axis))
    knee = curve.knee(axis)
    assert settings[on["knee"]] is knee.setting and on["range"] == list(knee.range or ())
    dense = curve.settings[0].size(axis)
    assert shown["dense"][axis] == dense
    assert on["halvings"] == pytest.approx(
        [math.log2(dense / (setting.size(axis) or 0.5)) for setting in settings]
    )


def test_layers_and_patterns_are_those_of_the_trained_networks(page: Page, curve: Curve) -> None:
    [shown] = page.data["curves"]
    weight = {"name": "0.weight", "shape": [12, 6], "weights": 72}
    assert shown["layers"][0] == weight and len(shown["layers"]) == 4
    assert shown["pattern"] == {"name": "0.weight", "height": 1, "width": 6, "units": 12}
    for point, setting in zip(shown["points"], curve.settings, strict=False):
        for network, one in zip(point["networks"], setting.points, strict=True):
            tensors = curve.tensors(one)
            counted = [int(tensors[name].count_nonzero()) for name in curve.parameters]
            assert network["nonzero"] == counted
            assert sum(network["nonzero"]) >= one.size()
            assert network["readers"] == (tensors["0.weight"] != 0).sum(0).tolist()


def test_inputs_that_are_a_square_are_laid_out_as_one(tmp_path: Path) -> None:
    made = path(
        STRENGTHS, make_model=flat, example_inputs=torch.ones(1, 9), out=tmp_path / "p", seeds=1
    )
    [shown] = reported(tmp_path, made).data["curves"]
    assert (shown["pattern"]["height"], shown["pattern"]["width"]) == (3, 3)
    assert len(shown["points"][0]["networks"][0]["readers"]) == 9


def test_classes_are_shown_where_they_are_known(page: Page, curve: Curve) -> None:
    [shown] = page.data["curves"]
    assert shown["classes"] == ["cat", "<b>dog", "gnu"]
    known = load_json(curve.out / "classes.json", "lissom classes 1")["points"]
    found = {
        f"seed{network['seed']}/{one.folder.name}": network["classes"]
        for point, setting in zip(
            shown["points"], (*curve.settings, *curve.from_scratch), strict=True
        )
        for network, one in zip(point["networks"], setting.points, strict=True)
    }
    assert found == known


def test_small_networks_are_embedded(page: Page, curve: Curve) -> None:
    [shown] = page.data["curves"]
    first = curve.settings[1].points[0]
    link = shown["points"][1]["networks"][0]["link"]
    assert link["name"] == f"{curve.out.name}-0.0001-seed0.safetensors"
    assert link["bytes"] == (first.folder / "small.safetensors").stat().st_size
    head, body = link["href"].split(",", 1)
    assert head == "data:application/octet-stream;base64"
    content = base64.b64decode(body)
    assert content == (first.folder / "small.safetensors").read_bytes()
    assert read_tensors(content).keys() == curve.tensors(first).keys()


def test_large_networks_are_linked(
    curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_data, "EMBEDDED", 100)
    copied = tmp_path / "a % #?'\" javascript:x"
    shutil.copytree(curve.out, copied)
    page = Page(write_curve_report([copied], tmp_path / "new" / "page.html"))
    href = page.data["curves"][0]["points"][0]["networks"][0]["link"]["href"]
    expected = "./../a%20%25%20%23%3F%27%22%20javascript%3Ax/seed0/dense/small.safetensors"
    assert href == expected


def test_the_lines_that_load_a_network_load_it(
    page: Page, curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = page.data["curves"][0]["points"][1]["networks"][1]["link"]
    (tmp_path / link["name"]).write_bytes(base64.b64decode(link["href"].split(",", 1)[1]))
    monkeypatch.chdir(tmp_path)
    known = {"make_model": lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))}
    exec(link["code"], known)
    small = curve.network(curve.settings[1].points[1], lambda seed: known["make_model"]())
    assert torch.equal(known["net"](EXAMPLE), small(EXAMPLE))  # type: ignore[operator]


@exhaustive
def test_the_lines_of_a_recipe_load_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("digits-path")
    made = path(
        STRENGTHS[:1],
        make_model=lambda seed: make_model(recipe, [64], 10, seed=seed),
        example_inputs=torch.rand(2, 64),
        fit=lambda net, strength, start: None,
        error=lambda net: 0.1,
        out=tmp_path / "a curve, of ours",
        seeds=1,
    )
    keep_record(Record(recipe=recipe, seed=0, shape=[64], classes=10), made.out)
    link = reported(tmp_path, made).data["curves"][0]["points"][0]["networks"][0]["link"]
    assert link["name"] == "a-curve-of-ours-dense-seed0.safetensors"
    shutil.copy(made.settings[0].points[0].folder / "small.safetensors", tmp_path / link["name"])
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(link["code"], known)
    assert known["net"](torch.rand(2, 64)).shape == (2, 10)


def test_the_command_is_told_where_it_is_known(tmp_path: Path) -> None:
    made = path(STRENGTHS, out=tmp_path / "p", seeds=1)
    assert "whose call is not recorded" in reported(tmp_path, made).text
    save_json({"command": "lissom path <x>"}, made.out / "result.json", "lissom result 1")
    page = reported(tmp_path, made)
    assert "whose call is not recorded" not in page.text
    assert '<pre class="command">lissom path &lt;x&gt;</pre>' in page.text


def test_errors_are_told_by_their_name_and_unit(curve: Curve, tmp_path: Path) -> None:
    def counted(folder: str, name: str, unit: str) -> Curve:
        copied = shutil.copytree(curve.out, tmp_path / folder)
        record = load_json(copied / "path.json", "lissom path 3")
        record |= {"error_name": name, "error_unit": unit}
        save_json(record, copied / "path.json", "lissom path 3")
        return Curve.load(copied)

    degrees = counted("p", "RMSE", "°C")
    page = reported(tmp_path, degrees)
    assert (page.data["what"], page.data["unit"]) == ("RMSE", "°C")
    assert f"test RMSE {degrees.knee().setting.test_error:.4g} °C" in page.text
    assert "validation, °C" in page.text
    assert "accuracy" not in page.text.split("<script")[0]
    assert "smallest within 5 % of" in page.text

    share = counted("q", "1 − mIoU", "fraction")
    page = reported(tmp_path, share)
    assert (page.data["percent"], page.data["accuracy"]) == (True, False)
    assert f"test 1 − mIoU {100 * (share.knee().setting.test_error or 0):.2f} %" in page.text
    with pytest.raises(PathError, match=r"where they count the same error, got .*RMSE.*mIoU"):
        reported(tmp_path, degrees, share)


def test_all_words_of_a_page_are_in_its_glossary(page: Page) -> None:
    known = {attributes["id"] for tag, attributes in page.tags if tag == "dd"}
    said = {a["aria-describedby"] for tag, a in page.tags if tag == "button"}
    assert said and said <= known


def test_answers_stand_at_the_top(page: Page, curve: Curve) -> None:
    knee, within = curve.knee(), curve.within(error=0.005)
    text = page.text.replace("\u00a0", " ").replace("&nbsp;", " ")
    for setting in (knee.setting, within):
        assert f"<td>{setting.size():,.0f}</td>" in text
        assert setting.test_error is not None
        assert f"test accuracy {100 * (1 - setting.test_error):.2f} %" in text
    cost = 100 * curve.slope(knee)
    assert f"<b>{cost:+.2f} points</b>" in text
    assert text.index(f"<b>{cost:+.2f} points</b>") < text.index('<figure id="plot"')
    at = curve.settings.index(knee.setting)
    assert f'<a href="#curve=0&amp;point={at}&amp;axis=nonzeros">' in text


def test_the_table_has_all_points_without_a_script(page: Page, curve: Curve) -> None:
    rows = re.findall(r"<tr[^>]*><td><a.*?</tr>", page.text, re.DOTALL)
    settings = [*curve.settings, *curve.from_scratch]
    assert len(rows) == len(settings)
    for row, setting in zip(rows, settings, strict=True):
        cells = re.findall(r"<td>(.*?)</td>", row)
        assert cells[1].startswith(f"{100 * (1 - setting.error):.2f} ± ")
        assert float(cells[4].replace(",", "")) == pytest.approx(setting.size(), abs=0.5)
    assert "knee" in rows[curve.settings.index(curve.knee().setting)] and "from scratch" in rows[-1]
    static = re.search(r"<noscript>(.*?)</noscript>", page.text, re.DOTALL)
    assert static and static[1].startswith("<svg") and static[1].count("<svg") == 1


def test_nothing_comes_from_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object"), tag
        assert "src" not in attributes
        assert not re.match("https?:|//", attributes.get("href") or "")
    namespaces = re.findall(r"https?://[^\s\"'<]+", page.text)
    assert {name.split("/")[2] for name in namespaces} <= {"www.w3.org"}  # names, not addresses
    [policy] = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "url(" not in re.sub(r"url\(#", "", page.text)


def test_how_it_was_made_is_told(page: Page, curve: Curve, tmp_path: Path) -> None:
    told = json.loads(next(word for word in page.words["pre"] if word.startswith("{")))
    assert told == load_json(curve.out / "path.json", "lissom path 3")
    assert f"torch {torch.__version__}" in page.text


@exhaustive
def test_names_and_reasons_may_hold_anything(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.replace("/", "\u2215")
    made = path(STRENGTHS, fit=raising(1e-2, HOSTILE), out=folder)
    save_json({"title": HOSTILE}, folder / "recipe.json", "lissom recipe 1")
    class_accuracy(made, EXAMPLE, torch.tensor([0, 1, 2, 0]), names=[HOSTILE, "", "_"]).save(folder)
    other = path(STRENGTHS, out=tmp_path / "_other", seeds=1)
    page = reported(tmp_path, made, other)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not any("onmouseover" in attributes for _, attributes in page.tags)
    [first, second] = page.data["curves"]
    assert first["name"] == folder.name and second["name"] == "_other"
    assert first["classes"][0] == HOSTILE
    assert first["failed"] == [[str(p), f"RuntimeError: {HOSTILE}"] for p in made.failed]
    assert "alert(1)</script>" not in page.text.lower().replace("\\u003c", "<nothing>")


def test_failed_points_are_listed_with_their_reasons(tmp_path: Path) -> None:
    def failing(net: nn.Module, strength: float | None, start: Start) -> Any:
        chosen = strength if start.seed == 1 else None
        return raising(1e-2 if chosen == 1e-2 else -1, "no <luck>")(net, strength, start)

    made = path(STRENGTHS, fit=failing, out=tmp_path / "p")
    assert len(made.failed) == 1
    page = reported(tmp_path, made)
    assert "<b>strength 0.01, seed 1</b>: RuntimeError: no &lt;luck&gt;" in page.text
    [shown] = page.data["curves"]
    [point] = [one for one in shown["points"] if one["strength"] == 1e-2]
    assert point["failed"] == [1] and len(point["networks"]) == 1
    assert point["error"][1] is None  # one seed has no spread


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    page = reported(tmp_path, path(STRENGTHS, out=tmp_path / "p", seeds=1))
    [shown] = page.data["curves"]
    assert all(point["error"][1] is None and point["test"] is None for point in shown["points"])
    assert page.data["test"] is False
    assert not re.search(r"<td>[\d.]+ ± ", page.text)


def test_several_curves_are_told_apart(curve: Curve, tmp_path: Path) -> None:
    for folder in ("a/p", "b/p"):
        shutil.copytree(curve.out, tmp_path / folder)
    page = Page(write_curve_report([tmp_path / "a/p", tmp_path / "b/p"], tmp_path))
    assert (tmp_path / "report.html").exists()
    assert [shown["name"] for shown in page.data["curves"]] == ["a/p", "b/p"]
    assert page.text.count('<table class="points">') == 2
    assert '<table class="answers">' in page.text
    with pytest.raises(PathError, match="shown once"):
        write_curve_report([curve.out, curve.out], tmp_path)


def test_a_curve_outlives_its_networks(tmp_path: Path) -> None:
    made = path(STRENGTHS, out=tmp_path / "p", seeds=1)
    for file in (tmp_path / "p").glob("seed*/*/*.safetensors"):
        file.unlink()
    [shown] = reported(tmp_path, made).data["curves"]
    network = shown["points"][0]["networks"][0]
    assert network["nonzero"] is None and network["link"] is None
    assert re.search(r"there is no file .*network\.safetensors", network["why"])


def test_an_empty_network_has_lost_everything(tmp_path: Path) -> None:
    page = reported(tmp_path, path((1e-3, 1e-2, 1.0), out=tmp_path / "p"))
    last = re.findall(r"<tr[^>]*><td><a.*?</tr>", page.text, re.DOTALL)[-1]
    assert '<span data-axis="nonzeros">100 %</span>' in last and "<td>0</td>" in last


@exhaustive
def test_latencies_are_times(tmp_path: Path) -> None:
    page = reported(tmp_path, path(STRENGTHS, out=tmp_path / "p", seeds=1, latency=True))
    assert ">latency in torch</button></th>" in page.text
    assert re.search(r"<td>[\d.]+ (µs|ms)</td>", page.text)
    assert page.data["words"]["latency"] == "latency in torch"


def test_what_a_curve_cannot_answer_is_said(tmp_path: Path) -> None:
    made = made_up(tmp_path / "p", [(None, [9.0], [3.0]), (1.0, [2.0], [5.0])], [1.0])
    for point in made.points:
        point.folder.mkdir(parents=True)
        save_point(point)
    page = reported(tmp_path, made)
    assert page.data["percent"] is False
    assert "a knee needs a front of three settings" in page.text
    assert "within 0.5" not in page.text and "within 5 % of" in page.text  # losses have no points
    assert page.data["curves"][0]["axes"]["nonzeros"]["knee"] is None


def test_a_page_says_what_the_strength_is(tmp_path: Path) -> None:
    page = reported(tmp_path, path(STRENGTHS, out=tmp_path / "p", seeds=1, strength_name="λ"))
    titles = [point["title"] for point in page.data["curves"][0]["points"]]
    assert titles[:2] == ["dense", "strength (λ) 0.0001"]
    assert ">strength (λ)</button></th>" in page.text


def test_pages_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PathError, match="at least one folder"):
        write_curve_report([], tmp_path)
    with pytest.raises(RunError, match=r"has no path\.json"):
        write_curve_report([tmp_path], tmp_path)


def test_the_same_curve_makes_the_same_page(curve: Curve, tmp_path: Path) -> None:
    pages = [write_curve_report([curve.out], tmp_path / name) for name in ("a.html", "b.html")]
    assert pages[0].read_text() == pages[1].read_text()


def browse(file: Path, hash: str = "", script: str = "") -> str:
    """The page as a browser makes it; `script` runs at its end."""
    assert BROWSER is not None
    # Scripts of the page itself see no difference: the policy allows inline ones.
    driven = file.with_name("driven.html")
    driven.write_text(file.read_text() + f"<script>{script}</script>")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", f"--user-data-dir={file.parent}/ch",
         "--enable-logging=stderr", "--dump-dom", f"{driven.as_uri()}{hash}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Uncaught" not in done.stderr, done.stderr
    return done.stdout


def section(dom: str, name: str) -> str:
    found = re.search(rf'id="{name}".*?</(section|figure)>', dom, re.DOTALL)
    assert found is not None
    return found[0]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
class TestInABrowser:
    def test_it_draws_all_points_and_chooses_the_knee(self, curve: Curve, tmp_path: Path) -> None:
        every = 'document.querySelector("#controls input").click();'
        dom = browse(write_curve_report([curve.out], tmp_path / "x.html"), script=every)
        plot, chosen = section(dom, "plot"), section(dom, "chosen")
        assert plot.count('role="button"') == len(curve.settings) + len(curve.from_scratch)
        assert plot.count('class="point from-scratch') == 1 and plot.count('class="point knee') == 1
        assert plot.count('class="band"') == 1 and "<noscript" not in plot
        knee = curve.knee()
        assert f"strength {knee.strength:g}, knee" in chosen
        assert "0.weight" in chosen and "&lt;b&gt;dog" in chosen and 'download="' in chosen

    @exhaustive
    def test_an_address_chooses_a_point(self, curve: Curve, tmp_path: Path) -> None:
        file = write_curve_report([curve.out], tmp_path / "x.html")
        dom = browse(file, "#point=1&seed=1&axis=bytes")
        chosen = section(dom, "chosen")
        assert '<h2 class="">strength 0.0001' in chosen
        assert re.search(r'aria-pressed="true"[^>]*>1<', chosen)
        assert "-0.0001-seed1.safetensors" in chosen
        assert "bytes removed" in section(dom, "plot")
        point = curve.settings[1].points[1]
        assert f"<td>{point.size():,.0f}</td>" in chosen

    @pytest.mark.parametrize(
        "wrong", few(["#point=99", "#point=x", "#curve=7&point=0", "#axis=nothing"], ["#point=99"])
    )
    def test_an_address_of_nothing_chooses_the_knee(
        self, curve: Curve, tmp_path: Path, wrong: str
    ) -> None:
        file = write_curve_report([curve.out], tmp_path / "x.html")
        assert "knee" in section(browse(file, wrong), "chosen")

    def test_keys_and_clicks_go_from_point_to_point(self, curve: Curve, tmp_path: Path) -> None:
        file = write_curve_report([curve.out], tmp_path / "x.html")
        keys = """
            const press = (key) => document.activeElement.dispatchEvent(
                new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
            document.querySelector("#plot .point").focus();
            press("ArrowRight"); press("ArrowRight"); press("ArrowLeft"); press("Enter");
            document.title = [document.activeElement.dataset.key, location.hash,
                document.querySelector(".tip").hidden].join(" ");
        """
        dom = browse(file, script=keys)
        assert "<title>0-1 #point=1 false</title>" in dom
        click = "document.querySelector(\"[data-key='0-2'] .dot\").dispatchEvent("
        dom = browse(file, script=click + 'new MouseEvent("click", { bubbles: true }));')
        assert "strength 0.001" in section(dom, "chosen") and "point knee pinned" in dom

    def test_curves_can_be_hidden(self, curve: Curve, tmp_path: Path) -> None:
        hostile = tmp_path / HOSTILE.replace("/", "\u2215")
        shutil.copytree(curve.out, hostile)
        file = write_curve_report([curve.out, hostile], tmp_path / "x.html")
        dom = browse(file)
        assert dom.count('class="series') == 2 and dom.count("<script>alert") == 0
        hide = 'document.querySelectorAll("#controls input")[1].click();'
        assert browse(file, script=hide).count('class="series') == 1

    def test_a_curve_without_knee_spread_or_network_is_drawn(self, tmp_path: Path) -> None:
        made = made_up(tmp_path / "p", [(None, [9.0], [3.0]), (1.0, [0.0], [5.0])], [1.0])
        for point in made.points:
            point.folder.mkdir(parents=True)
            save_point(point)
        dom = browse(write_curve_report([made.out], tmp_path / "x.html"), "#point=1")
        assert section(dom, "plot").count('role="button"') == 2
        assert "Its layers are not shown" in section(dom, "chosen")
        assert not re.search(r"NaN|undefined|Infinity", section(dom, "plot"))

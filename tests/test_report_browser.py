"""The pages driven in a real browser, from a file and offline: wide and narrow, light and dark."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from path_cases import EXAMPLE, made_up, path, raising, test_error
from test_report import event

from lissom.curves import Curve
from lissom.curves.storing import save_point
from lissom.report import class_accuracy, write_curve_report, write_report
from lissom.storage import append_event, save_json

sync = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
PHONE, DESK = 390, 1280
NAN = math.nan
# Most non-zeros vanish early and most MACs late, so their knees are two points.
SIZES = [(1000, 9000), (400, 8800), (60, 8000), (50, 900), (40, 700), (5, 600)]
ERRORS = [0.020, 0.021, 0.024, 0.040, 0.12, 0.80]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str, hash: str = "") -> None:
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(file.as_uri() + hash)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *failed: object) -> None:
        self.context.close()
        if not any(failed):
            assert not self.wrong


def of_numbers(folder: Path, errors: list[float], **record: str) -> Curve:
    """A curve on two axes, without networks; its record says what the errors are."""
    rows = [(None if i == 0 else float(i), [1.0], [e]) for i, e in enumerate(errors)]
    made = made_up(folder, rows, [1.0, 5.0])  # type: ignore[arg-type]
    for point, (nonzeros, macs) in zip(made.points, SIZES, strict=True):
        point.folder.mkdir(parents=True)
        sizes = None if point.failed else {"nonzeros": nonzeros, "macs": macs}
        save_point(replace(point, sizes=sizes))
    file = folder / "path.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **record}))
    return Curve.load(folder)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for each kind of curve, and one about a run."""
    out = tmp_path_factory.mktemp("pages")
    full = path(STRENGTHS, test=test_error, out=out / "full", from_scratch=(1e-3,))
    class_accuracy(full, EXAMPLE, torch.tensor([0, 1, 2, 0]), names=["a", "b", "c"]).save(full.out)
    lone = path(STRENGTHS, out=out / "lone", seeds=1, fit=raising(1e-2, "no luck " * 20))
    curves = {
        "full": [full],
        "several": [full, lone],
        "one seed, no test, one failed": [lone],
        "two knees": [of_numbers(out / "knees", ERRORS)],
        "no knee": [of_numbers(out / "none", [0.1, NAN, NAN, NAN, NAN, 0.9])],
        "regression": [
            of_numbers(
                out / "degrees", [50 * e for e in ERRORS], error_name="RMSE", error_unit="°C"
            )
        ],
    }
    made = {
        name: write_curve_report([one.out for one in shown], out / f"{number}.html")
        for number, (name, shown) in enumerate(curves.items())
    }
    run = out / "run"
    run.mkdir()
    for epoch in (1, 2, 4):
        append_event(event(epoch), run / "events.jsonl")
    about = {"title": "A run", "command": "lissom train x --out " + "y" * 99, "seed": 3}
    save_json({**event(4), **about, "versions": {}}, run / "result.json", "lissom result 1")
    save_json({"recipe": {}}, run / "recipe.json", "lissom recipe 1")
    return {**made, "run": write_report(run)}


KINDS = ["full", "several", "one seed, no test, one failed", "two knees", "no knee", "regression"]


def contrast(page: Any, selector: str) -> float:
    """Of a text with the page behind it, as WCAG counts it."""
    colours = page.evaluate(
        """(selector) => [getComputedStyle(document.querySelector(selector)).color,
            getComputedStyle(document.body).backgroundColor]""",
        selector,
    )

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted(map(light, colours), reverse=True)[:2]
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", [*KINDS, "run"])
def test_a_page_fits_and_can_be_read(
    browser: Any, pages: dict[str, Path], kind: str, width: int
) -> None:
    with Visit(browser, pages[kind], width, "light") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for details in page.query_selector_all("summary"):
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert contrast(page, "h1") > 7 and contrast(page, "small") > 4.5
            dark = page.evaluate('matchMedia("(prefers-color-scheme: dark)").matches')
            assert dark == (scheme == "dark")
        assert not re.search(r"NaN|undefined|Infinity|null", page.inner_text("body"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_labels_of_the_picture_do_not_overlap(
    browser: Any, pages: dict[str, Path], kind: str, width: int
) -> None:
    with Visit(browser, pages[kind], width, "light") as page:
        boxes = page.evaluate(
            """[...document.querySelectorAll("#plot > svg text")].map((text) => {
                const box = text.getBoundingClientRect();
                return [box.left, box.right, box.top, box.bottom, text.textContent];
            })"""
        )
        assert len(boxes) > 6
        for i, (left, right, top, bottom, text) in enumerate(boxes):
            assert left > -1 and right < width + 1, text
            for left2, right2, top2, bottom2, other in boxes[i + 1 :]:
                wide, high = (
                    min(right, right2) - max(left, left2),
                    min(bottom, bottom2) - max(top, top2),
                )
                assert wide <= 1 or high <= 3, (text, other)


def test_card_diamond_table_and_point_agree_on_each_axis(
    browser: Any, pages: dict[str, Path]
) -> None:
    seen = []
    with Visit(browser, pages["two knees"], DESK, "light") as page:
        for axis in ("nonzeros", "macs", "nonzeros"):
            page.select_option("#controls select", axis)
            [diamond] = page.query_selector_all("#plot .point.knee")
            at = int(diamond.get_attribute("data-key").split("-")[1])
            link = page.locator(".facts a >> visible=true").first
            assert f"point={at}&axis={axis}" in link.get_attribute("href")
            assert page.locator("td.marks >> text=knee >> visible=true").count() == 1
            row = page.locator("table.points tbody tr").nth(at)
            assert row.inner_text().rstrip().endswith("knee")
            assert f"strength {at}, knee" in page.inner_text("#chosen h2")
            bold = page.locator(".facts tr.total >> visible=true").first.inner_text()
            assert f"{SIZES[at][axis == 'macs']:,}" in bold
            seen.append(at)
        assert seen[0] == seen[2] != seen[1]
        page.locator("#plot .point").first.click()  # from here on the point stays
        page.select_option("#controls select", "macs")
        assert "dense" in page.inner_text("#chosen h2") and "axis=macs" in page.url


def test_answers_give_the_sizes_that_people_get(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["full"], DESK, "light") as page:
        card = page.locator(".facts > div >> visible=true").first.inner_text()
        for what in ("non-zero weights", "weights", "MACs", "bytes", "file", "× smaller"):
            assert what in card


def test_the_useful_end_is_shown_first_and_all_on_demand(
    browser: Any, pages: dict[str, Path]
) -> None:
    with Visit(browser, pages["two knees"], DESK, "light") as page:
        few = page.locator("#plot .point").count()
        assert 3 <= few < len(ERRORS)
        assert f"{len(ERRORS) - few} of {len(ERRORS)} points" in page.inner_text("#controls")
        page.check("#controls input")
        assert page.locator("#plot .point").count() == len(ERRORS)
        page.uncheck("#controls input")
        assert page.locator("#plot .point").count() == few
        page.click("table.points tbody tr:last-child a")  # one that is further down
        assert page.is_checked("#controls input")
        assert page.locator("#plot .point.pinned").count() == 1


def test_words_are_explained_by_pointing_by_keys_and_by_touch(
    browser: Any, pages: dict[str, Path]
) -> None:
    for kind in ("full", "several", "run"):
        with Visit(browser, pages[kind], PHONE, "light") as page:
            says = page.locator(".says")
            for word in page.locator("button.term >> visible=true").all():
                word.scroll_into_view_if_needed()
                page.mouse.move(0, 0)
                word.hover()
                said = page.locator("#" + word.get_attribute("aria-describedby")).text_content()
                assert says.is_visible() and says.inner_text() == said and len(said) > 20
                box = says.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE
            page.mouse.move(0, 0)
            page.locator("button.term >> visible=true").first.focus()
            assert says.is_visible()
            page.keyboard.press("Escape")
            assert says.is_hidden()
            page.keyboard.press("Tab")
            page.keyboard.press("Shift+Tab")
            assert says.is_visible()
    context = browser.new_context(has_touch=True, viewport={"width": PHONE, "height": 800})
    page = context.new_page()
    page.goto(pages["full"].as_uri())
    page.locator("button.term >> visible=true").first.tap()
    assert page.locator(".says").is_visible()
    context.close()


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", ["full", "two knees", "regression"])
def test_the_tip_lies_beside_the_curve(
    browser: Any, pages: dict[str, Path], kind: str, width: int
) -> None:
    with Visit(browser, pages[kind], width, "light") as page:
        for point in page.locator("#plot .point").all():
            point.hover(force=True)
            tip, dot = page.locator("#plot .tip"), point.locator(".dot").bounding_box()
            assert tip.is_visible()
            box = tip.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
            x, y = dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2
            inside = (
                box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"]
            )
            assert not inside
            covered = page.evaluate(
                """(box) => {
                    const svg = document.querySelector("#plot > svg"), all = svg.viewBox.baseVal;
                    const line = svg.querySelector(".line"), length = line.getTotalLength();
                    const at = svg.getBoundingClientRect(), scale = at.width / all.width;
                    let count = 0;
                    for (let i = 0; i <= 1000; i++) {
                        const p = line.getPointAtLength(length * i / 1000);
                        const x = at.left + scale * p.x - box.x, y = at.top + scale * p.y - box.y;
                        const seen = p.y < all.height - 58; // what is further down is cut off
                        count += seen && x > 0 && x < box.width && y > 0 && y < box.height;
                    }
                    return count;
                }""",
                box,
            )
            assert covered == 0


def test_errors_have_their_name_and_unit(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["regression"], DESK, "light") as page:
        assert "validation RMSE, °C (up is better)" in page.text_content("#plot")
        assert "validation RMSE 1.2 °C" in page.inner_text(".facts").replace("\u00a0", " ")
        assert "validation, °C" in page.inner_text("table.points thead")
        assert "accuracy" not in page.inner_text("body")
        heights = page.evaluate(
            """[...document.querySelectorAll("#plot .level")].map(
                (text) => [+text.textContent, +text.getAttribute("y")])"""
        )
        assert sorted(heights) == sorted(heights, key=lambda pair: pair[1])  # small ones on top


def test_wide_tables_scroll_on_a_phone(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["full"], PHONE, "dark") as page:
        table = page.locator(".wide:has(table.points)")
        wide, seen = table.evaluate("(node) => [node.scrollWidth, node.clientWidth]")
        assert wide > seen
        first = table.locator("tbody td").first
        before = first.bounding_box()["x"]
        table.evaluate("(node) => node.scrollTo(200, 0)")
        assert first.bounding_box()["x"] == pytest.approx(before, abs=12)  # its name stays
        table.focus()
        assert "gradient" in table.evaluate("(node) => getComputedStyle(node).backgroundImage")


def test_a_heat_map_has_a_scale_and_a_network_its_lines(
    browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    with Visit(browser, pages["full"], DESK, "light", "#point=1") as page:
        assert re.search(r"\d+ units?", page.inner_text(".scale"))
        link, code = page.locator("#chosen a[download]"), page.inner_text("#chosen pre.code")
        with page.expect_download() as saved:
            link.click()
        name = saved.value.suggested_filename
        assert name == "full-0.0001-seed0.safetensors" and f'"{name}"' in code

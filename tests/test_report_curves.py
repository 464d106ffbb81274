"""The figures of curves: what they draw is what the curve says."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from path_cases import EXAMPLE, made_up, make, path, test_error
from torch import nn

import lissom
from lissom import L0
from lissom.curves import Curve
from lissom.errors import LissomError, PathError
from lissom.hard_concrete import TEST_GATES, HardConcrete
from lissom.report import (
    ClassAccuracy,
    class_accuracy,
    connectivity,
    log_alpha,
    patterns,
    per_class,
    rate_distortion,
    trade_off,
)
from lissom.report.figures import svg
from lissom.report.networks import readers, thresholds
from lissom.report.series import marks, removed

DENSE = 1024.0
# strength, sizes by seed, errors by seed: the second is dominated, the fourth is the knee.
ROWS: list[tuple[float | None, list[float], list[float]]] = [
    (None, [DENSE, DENSE], [0.02, 0.04]),
    (1.0, [600.0, 680.0], [0.05, 0.06]),
    (2.0, [256.0, 256.0], [0.02, 0.02]),
    (3.0, [32.0, 32.0], [0.04, 0.06]),
    (4.0, [4.0, 12.0], [0.5, 0.6]),
]


@pytest.fixture
def curve(tmp_path: Path) -> Curve:
    return made_up(tmp_path, ROWS, [1.0, 2.0, 3.0, 4.0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    out = tmp_path_factory.mktemp("path")
    return path((1e-4, 1e-3, 1e-2, 1e-1), test=test_error, out=out, from_scratch=(1e-3,))


def drawn(axes: Axes) -> dict[str, Any]:
    """x and y by the name of each line."""
    found = {}
    for line in axes.lines:
        name = line.get_gid() or line.get_label()
        found[str(name)] = np.stack([line.get_xdata(), line.get_ydata()])
    return found


def band(axes: Axes, gid: str) -> Any:
    """The corners of a band."""
    [area] = [one for one in axes.collections if one.get_gid() == gid]
    return area.get_paths()[0].vertices


def test_front_dominated_and_knee_are_where_the_curve_has_them(curve: Curve) -> None:
    [axes] = trade_off(curve).axes
    lines = drawn(axes)
    assert [s.strength for s in curve.front()] == [2.0, 3.0, 4.0]
    np.testing.assert_allclose(lines["front"][0], [2, 5, 7])  # log₂(1024/size)
    np.testing.assert_allclose(lines["front"][1], [98, 95, 45])
    np.testing.assert_allclose(lines[" dominated"][0], [0, math.log2(DENSE / 640)])
    np.testing.assert_allclose(lines[" dominated"][1], [97, 94.5])
    assert curve.knee().strength == 3.0
    np.testing.assert_allclose(lines[" knee"].ravel(), [5, 95])
    assert " from scratch" not in lines and axes.get_ylabel() == "validation accuracy, %"


def test_the_band_is_one_standard_deviation_over_the_seeds(curve: Curve) -> None:
    [axes] = trade_off(curve).axes
    corners = band(axes, " band")
    std = 100 * 0.02 / math.sqrt(2)
    at_knee = sorted(y for x, y in corners if x == 5)
    np.testing.assert_allclose([at_knee[0], at_knee[-1]], [95 - std, 95 + std])


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    rows = [(strength, sizes[:1], errors[:1]) for strength, sizes, errors in ROWS]
    figure = trade_off(made_up(tmp_path, rows, [1.0, 2.0, 3.0, 4.0]))
    assert not figure.axes[0].collections
    assert "<svg" in svg(figure)
    assert not rate_distortion(made_up(tmp_path, rows, [1.0, 2.0])).axes[0].collections


def test_the_range_of_the_knee_is_that_of_the_seeds(trained: Curve) -> None:
    knee = trained.knee()
    [axes] = trade_off(trained).axes
    assert knee.range is not None
    low, high = knee.range
    dense = trained.settings[0].size()
    if low < high:
        np.testing.assert_allclose(
            drawn(axes)[" range"][0], [math.log2(dense / high), math.log2(dense / low)]
        )


def test_seeds_with_different_knees_draw_their_range(tmp_path: Path) -> None:
    rows = [
        (None, [DENSE, DENSE], [0.0, 0.0]),
        (1.0, [128.0, 128.0], [0.01, 0.01]),
        (2.0, [32.0, 32.0], [0.02, 0.4]),
        (3.0, [4.0, 4.0], [0.8, 0.8]),
    ]
    curve = made_up(tmp_path, rows, [1.0, 2.0, 3.0])
    assert curve.knee().range == (32, 128)
    lines = drawn(trade_off(curve).axes[0])
    np.testing.assert_allclose(lines[" range"][0], [3, 5])
    np.testing.assert_allclose(lines[" range"][1], lines[" knee"][1].repeat(2))


def test_test_accuracy_and_points_from_scratch_are_shown(trained: Curve) -> None:
    [axes] = trade_off(trained, axis="bytes").axes
    lines = drawn(axes)
    assert axes.get_ylabel() == "test accuracy, %"
    [scratch] = trained.from_scratch
    dense = trained.settings[0].size("bytes")
    assert scratch.test_error is not None
    expected = [math.log2(dense / scratch.size("bytes")), 100 * (1 - scratch.test_error)]
    np.testing.assert_allclose(lines[" from scratch"].ravel(), expected)
    [hollow] = [line for line in axes.lines if line.get_gid() == " from scratch"]
    assert hollow.get_markerfacecolor() == "none"
    front = trained.front("bytes")
    np.testing.assert_allclose(
        lines["front"][1], [100 * (1 - (s.test_error or 0)) for s in front], rtol=1e-6
    )


def test_several_curves_have_a_colour_and_a_legend_each(curve: Curve, trained: Curve) -> None:
    names = ["$a^", "_b", "c <i>"]  # neither mathematics nor hidden
    figure = trade_off(dict(zip(names, (curve, trained, curve), strict=True)))
    assert "<svg" in svg(figure)
    [axes] = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text().strip() for text in legend.get_texts()]
    assert set(names) <= set(texts) and texts.count("knee") == texts.count("dominated") == 1
    fronts = [line for line in axes.lines if str(line.get_label()).strip() in names]
    assert len({line.get_color() for line in fronts}) == 3
    assert axes.get_ylabel() == "validation accuracy, %"  # one of them has no test error


def test_errors_beyond_one_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [(p, s, [10 * e for e in errors]) for p, s, errors in ROWS]
    curve = made_up(tmp_path, rows, [1.0, 2.0, 3.0, 4.0])
    [axes] = trade_off(curve).axes
    np.testing.assert_allclose(drawn(axes)["front"][1], [0.2, 0.5, 5.5])
    assert axes.get_ylabel() == "validation error" and axes.yaxis_inverted()
    assert rate_distortion(curve).axes[0].get_ylabel() == "validation error added"


def test_without_a_dense_network_sizes_are_against_the_largest(tmp_path: Path) -> None:
    rows = [(None, [math.nan], [math.nan]), *((p, s[:1], e[:1]) for p, s, e in ROWS[2:])]
    curve = made_up(tmp_path, rows, [2.0, 3.0, 4.0])
    np.testing.assert_allclose(drawn(trade_off(curve).axes[0])["front"][0], [0, 3, 6])
    with pytest.raises(PathError, match=r"dense network of x failed"):
        rate_distortion({"x": curve})


def test_pictures_of_nothing_are_refused(curve: Curve) -> None:
    for wrong in ({}, {"a": 3}, [curve]):
        with pytest.raises(PathError, match="made of a curve"):
            trade_off(wrong)  # type: ignore[arg-type]
    with pytest.raises(PathError, match=r"no axis 'byte'. Did you mean 'bytes'"):
        trade_off(curve, axis="byte")


def test_rate_distortion_holds_the_losses_and_marks_what_is_free(curve: Curve) -> None:
    [axes] = rate_distortion({"L0": curve}).axes
    lines = drawn(axes)
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(lines["L0"][0], [5, 7])
    np.testing.assert_allclose(lines["L0"][1], [2, 52])  # points above the dense error 0.03
    np.testing.assert_allclose(lines["L0 free"], [[2], [0]])  # better than dense: no logarithm
    corners = band(axes, "L0 band")
    # Each seed loses 2 points at 5 halvings, and 48 or 56 points at 7.
    np.testing.assert_allclose([y for x, y in corners if x == 5], 2)
    std = 8 / math.sqrt(2)
    far = sorted(y for x, y in corners if x == 7)
    np.testing.assert_allclose([far[0], far[-1]], [52 - std, 52 + std])


def test_marks_are_where_the_words_say() -> None:
    for most in (0.1, 0.7, 1, 6, 12):
        for place, words in marks(most):
            assert float(words.removesuffix(" %")) == pytest.approx(100 * (1 - 2**-place))
    texts = [words for _, words in marks(12)]
    assert texts == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]
    assert [words for _, words in marks(0.5)] == ["0 %", "10 %", "20 %", "30 %"]
    assert removed(math.log2(5000)) == "99.98"


def test_patterns_count_the_readers_of_each_input(trained: Curve) -> None:
    figure = patterns(trained, shape=(2, 3), seed=1, number=3)
    points = [p for p in trained.points if p.seed == 1 and not p.from_scratch]
    chosen = [points[0], points[2], points[4]]
    assert len(figure.axes) == 3
    for axes, point in zip(figure.axes, chosen, strict=True):
        weight = trained.tensors(point)["0.weight"]
        expected = (weight != 0).sum(0).reshape(2, 3).numpy()
        [image] = axes.images
        shown = image.get_array()
        assert shown is not None
        np.testing.assert_array_equal(shown.filled(0), expected)
        np.testing.assert_array_equal(np.ma.getmaskarray(shown), expected == 0)  # transparent
        assert f"of {len(weight)}" in axes.get_title()


def test_patterns_of_what_is_not_there_are_refused(trained: Curve) -> None:
    with pytest.raises(PathError, match=r"got '0.weigt'. Did you mean '0.weight'"):
        patterns(trained, "0.weigt")
    with pytest.raises(PathError, match=r"got '0.bias'"):
        patterns(trained, "0.bias")
    with pytest.raises(PathError, match=r"shape=\(28, 28\) has 784 places for 6 inputs"):
        patterns(trained, shape=(28, 28))
    with pytest.raises(PathError, match=r"seed=7; there are seeds \[0, 1\]"):
        patterns(trained, seed=7)


def test_connectivity_shows_one_image_for_each_network() -> None:
    first, second = torch.zeros(5, 9), torch.eye(5, 9)
    first[1:4, 4] = -0.5
    figure = connectivity({"ℓ0": nn.Parameter(first), "ℓ1": second})
    for axes, title, most in zip(figure.axes, ("ℓ0\n1 of 9", "ℓ1\n5 of 9"), (3, 1), strict=True):
        [image] = axes.images
        shown = image.get_array()
        assert shown is not None and shown.shape == (3, 3) and shown.max() == most
        assert axes.get_title().startswith(title)
    [image] = figure.axes[0].images
    shown = image.get_array()
    assert shown is not None and shown[1, 1] == 3 and np.ma.getmaskarray(shown).sum() == 8


def test_wide_images_stand_in_a_column() -> None:
    weights = {"a": torch.ones(2, 40), "b": torch.ones(2, 40)}
    for shape, columns in (((4, 10), 2), ((2, 20), 1)):
        axes = connectivity(weights, shape).axes
        assert [a.get_subplotspec().get_gridspec().ncols for a in axes] == [columns] * 2


def test_connectivity_of_no_matrix_is_refused() -> None:
    with pytest.raises(PathError, match="weights by title"):
        connectivity({})
    with pytest.raises(PathError, match=r"got \[7\] for 'bias'"):
        connectivity({"bias": torch.ones(7)})
    with pytest.raises(PathError, match=r"got \[20, 50, 5, 5\] for 'conv'"):
        connectivity({"conv": torch.ones(20, 50, 5, 5)})
    with pytest.raises(PathError, match="got list for 'rows'"):
        connectivity({"rows": [[1.0]]})  # type: ignore[dict-item]


def test_readers_find_squares_rows_and_kernels() -> None:
    square = readers(torch.eye(3, 9))
    assert square.square and square.counts.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    row = readers(torch.ones(4, 6))
    assert not row.square and row.counts.tolist() == [[4] * 6]
    kernel = torch.zeros(2, 3, 2, 5)
    kernel[:, 1, 0, 4] = -1
    seen = readers(kernel)
    assert seen.counts.shape == (2, 5) and seen.units == 6
    assert seen.counts[0, 4] == 2 and seen.counts.sum() == 2


def test_class_accuracy_is_counted_by_label(trained: Curve, tmp_path: Path) -> None:
    x = torch.cat([EXAMPLE, -EXAMPLE, EXAMPLE.flip(1)])
    y = torch.tensor([0, 1, 2] * 4)
    found = class_accuracy(trained, x, y, names=list("abc"), batch_size=5)
    assert found.names == ("a", "b", "c")
    assert len(found.points) == len(trained.points)
    for point in trained.points:
        with torch.no_grad():
            told = trained.network(point)(x).argmax(1)
        expected = [(told[y == c] == c).float().mean().item() for c in range(3)]
        assert found.of(point) == pytest.approx(expected)
    found.save(tmp_path)
    assert ClassAccuracy.load(tmp_path) == found
    assert json.loads((tmp_path / "classes.json").read_text())["names"] == ["a", "b", "c"]
    assert ClassAccuracy.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_class_without_examples_is_left_out(trained: Curve, absent: int) -> None:
    x = torch.cat([EXAMPLE, -EXAMPLE, EXAMPLE.flip(1)])
    y = torch.tensor([0, 1, 2] * 4)
    there = y != absent
    whole = class_accuracy(trained, x, y, names=list("abc"))
    found = class_accuracy(trained, x[there], y[there], names=list("abc"))
    kept = [c for c in range(3) if c != absent]
    assert found.names == tuple("abc"[c] for c in kept)
    for point, known in found.points.items():
        assert known == tuple(whole.points[point][c] for c in kept)


def test_class_accuracy_refuses_what_it_cannot_count(trained: Curve) -> None:
    y = torch.tensor([0, 1, 2, 0])
    with pytest.raises(PathError, match="3 classes, and there are 2 names"):
        class_accuracy(trained, EXAMPLE, y, names=["a", "b"])
    with pytest.raises(LissomError, match="n ≥ 1 inputs and y their n labels"):
        class_accuracy(trained, EXAMPLE, y[:2])
    with pytest.raises(LissomError, match=r"labels of 3 logits are 0 … 2, got 0 … 4"):
        class_accuracy(trained, torch.cat([EXAMPLE, EXAMPLE[:1]]), torch.arange(5))
    with pytest.raises(PathError, match="needs the function that makes an untrained one"):
        class_accuracy(Curve.load(trained.out), EXAMPLE, y)


def test_per_class_draws_the_means_over_seeds(curve: Curve) -> None:
    points = {
        f"seed{p.seed}/{p.folder.name}": (0.5 + 0.1 * p.seed, 0.1 * p.number) for p in curve.points
    }
    classes = ClassAccuracy(("$x", "y"), points)
    figure = per_class(curve, classes)
    assert "<svg" in svg(figure)
    lines = drawn(figure.axes[0])
    sizes = [DENSE, 640, 256, 32, 8]
    np.testing.assert_allclose(lines["$x"][0], [math.log2(DENSE / size) for size in sizes])
    np.testing.assert_allclose(lines["$x"][1], [55] * 5)
    np.testing.assert_allclose(lines["y"][1], [0, 10, 20, 30, 40])
    np.testing.assert_allclose(lines["mean"][1], [27.5, 32.5, 37.5, 42.5, 47.5])
    del points["seed1/2.0"]
    assert len(drawn(per_class(curve, classes).axes[0])["y"][0]) == 4  # not all seeds are known
    with pytest.raises(PathError, match="of another curve"):
        per_class(curve, ClassAccuracy(("a",), {"seed0/x": (1.0,)}))


def test_many_classes_have_a_colour_each(curve: Curve) -> None:
    row = tuple(i / 20 for i in range(20))
    points = {f"seed{p.seed}/{p.folder.name}": row for p in curve.points}
    figure = per_class(curve, ClassAccuracy(tuple(map(str, range(20))), points))
    assert len({str(line.get_color()) for line in figure.axes[0].lines[:20]}) == 20


@pytest.mark.parametrize("test", TEST_GATES)
def test_thresholds_are_where_the_gate_becomes_0_and_1(test: str) -> None:
    law = HardConcrete()
    zero, one = thresholds(law, test)
    alphas = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    gate = law.test_gate(alphas, test)
    if zero is None:
        assert not (gate == 0).any()
    else:
        assert torch.equal(gate == 0, alphas <= zero)
    if one is None:
        assert not (gate == 1).any()
    else:
        assert torch.equal(gate == 1, alphas >= one)
    if test == "published":
        assert zero == pytest.approx(-math.log(11)) and one == pytest.approx(math.log(11))
    assert (zero is None) == (test == "mean")


def test_log_alpha_is_a_histogram_of_each_block() -> None:
    net = make(0)
    optimizer = torch.optim.Adam(net.parameters())
    gates = lissom.gate(optimizer, net, {lissom.weights(net): L0(1e-3)}, seed=0)
    with torch.no_grad():
        gates.log_alpha.add_(3 * torch.randn(gates.log_alpha.shape))
    figure = log_alpha(gates)
    alphas = gates.log_alphas()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == len(alphas)
    for axes, (name, values) in zip(shown, alphas.items(), strict=True):
        bars: list[Any] = list(axes.patches)
        edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
        counted, _ = np.histogram(values.flatten().numpy(), bins=edges)
        assert sum(bar.get_height() for bar in bars) == values.numel()
        np.testing.assert_allclose([bar.get_height() for bar in bars], counted, atol=1)
        zero, one = (line.get_xdata()[0] for line in axes.lines)  # type: ignore[index]
        assert zero == pytest.approx(-math.log(11)) and one == pytest.approx(math.log(11))
        shut = int((gates.law.published(values) == 0).sum())
        assert axes.get_title(loc="left") == f"{name}: {shut} of {values.numel()} shut"


def test_figures_leave_pyplot_alone(curve: Curve) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert isinstance(trade_off(curve), Figure) and isinstance(rate_distortion(curve), Figure)
    assert plt.get_fignums() == before
    assert svg(trade_off(curve)) == svg(trade_off(curve))


def test_a_failed_seed_is_left_out_of_the_means(tmp_path: Path) -> None:
    rows = [*ROWS[:3], (3.0, [32.0, math.nan], [0.04, math.nan]), ROWS[4]]
    curve = made_up(tmp_path, rows, [1.0, 2.0, 3.0, 4.0])
    [axes] = trade_off(curve).axes
    np.testing.assert_allclose(drawn(axes)["front"][1], [98, 96, 45])
    assert sorted({y for x, y in band(axes, " band") if x == 5}) == pytest.approx([96])
    assert rate_distortion(curve).axes[0].lines

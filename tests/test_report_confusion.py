"""Confusions and accuracies by a value: counted as by hand, drawn as counted."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lissom.errors import LissomError
from lissom.report import accuracy_by, confusion_matrix, confusions, per_value
from lissom.report.figures import svg

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
ANSWERS = torch.tensor([0, 1, 1, 2, 0, 2])
LOGITS = nn.functional.one_hot(ANSWERS, 3).float()
SNR = torch.tensor([-4, 18, -4, 18, 18, 0])


def test_counts_are_those_of_a_loop() -> None:
    counts = confusions(nn.Identity(), LOGITS, LABELS, batch_size=4)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, answer in zip(LABELS, ANSWERS, strict=True):
        expected[label, answer] += 1
    assert counts.dtype == torch.int64 and torch.equal(counts, expected)
    few = confusions(nn.Identity(), LOGITS[:2], LABELS[:2])
    assert few.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_networks_are_run_in_evaluation_mode_and_small_labels_do_not_overflow() -> None:
    net = nn.Dropout(0.9).train()
    y = torch.tensor([15, 16], dtype=torch.uint8)
    counts = confusions(net, nn.functional.one_hot(y.long(), 17).float(), y)
    assert net.training and counts.nonzero().tolist() == [[15, 15], [16, 16]]


def test_accuracy_by_snr() -> None:
    found = accuracy_by(nn.Identity(), LOGITS, LABELS, SNR, batch_size=1)
    assert found == {-4.0: 1.0, 0.0: 1.0, 18.0: pytest.approx(1 / 3)}
    assert list(found) == [-4.0, 0.0, 18.0]


def test_the_matrix_shows_parts_of_rows() -> None:
    figure = confusion_matrix(confusions(nn.Identity(), LOGITS, LABELS), ["a", "$b", "c"])
    [axes] = figure.axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "50", (1, 0): "50", (1, 1): "100", (0, 2): "33", (2, 2): "67"}
    image = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(image.sum(1), 100, rtol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "$b", "c"]
    assert "$b" in svg(figure)
    empty = confusion_matrix(torch.tensor([[0, 0], [1, 3]]))
    assert [text.get_text() for text in empty.axes[0].texts] == ["25", "75"]


def test_lines_are_means_over_seeds() -> None:
    one, other = {0.0: 0.5, 10.0: 0.7}, {10.0: 0.9, 0.0: 0.6}
    figure = per_value({"dense": [one, other], "sparse": [one]}, "SNR label, dB")
    [axes] = figure.axes
    lines = {str(line.get_label()): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(np.asarray(lines["dense"]), [[0, 55], [10, 80]])
    np.testing.assert_allclose(np.asarray(lines["sparse"]), [[0, 50], [10, 70]])
    [band] = axes.collections  # of the two seeds
    low, high = band.get_datalim(axes.transData).intervaly
    assert high == pytest.approx(80 + 10 * 2**0.5)
    assert low == pytest.approx(55 - 5 * 2**0.5)
    assert axes.get_xlabel() == "SNR label, dB"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusions(nn.Identity(), LOGITS, LABELS[:3]), r"got x\[6, 3\] and y\[3\]"),
        (lambda: confusions(nn.Identity(), LOGITS, LABELS + 1), r"0 … 2, got 1 … 3"),
        (lambda: confusions(nn.Flatten(0), LOGITS, LABELS), r"and this one \[18\]"),
        (lambda: accuracy_by(nn.Identity(), LOGITS[:0], LABELS[:0], SNR[:0]), r"got x\[0, 3\]"),
        (lambda: accuracy_by(nn.Identity(), LOGITS, LABELS, SNR[:2]), r"\[2\] and y\[6\], 0 of"),
        (
            lambda: accuracy_by(nn.Identity(), LOGITS, LABELS, LABELS / 0),
            "2 of the values NaN",
        ),
        (lambda: confusion_matrix(torch.ones(2, 3)), r"are \[k, k\], got \[2, 3\]"),
        (lambda: confusion_matrix(torch.ones(2, 2), ["a"]), r"2 classes and 1 names: \['a'\]"),
        (lambda: per_value({"net": []}), "'net' have different values"),
        (lambda: per_value({"net": [{1.0: 0.5}, {2.0: 0.5}]}), "'net' have different values"),
    ],
)
def test_what_does_not_fit_is_told(call: Any, message: str) -> None:
    with pytest.raises(LissomError, match=message):
        call()

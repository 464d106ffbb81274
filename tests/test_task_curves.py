"""The trade-off curve of every kind of task, and its page: judged and labelled as the task says."""

from pathlib import Path
from typing import Any

import pytest
from products import exhaustive
from task_cases import CASES, Case
from torch import nn
from torch.optim import Adam

import lissom
from lissom import TopK, Trainer
from lissom.data import first_inputs
from lissom.report import write_curve_report
from lissom.training import evaluate


@exhaustive
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_curve_and_its_page(case: Case, tmp_path: Path) -> None:
    data: Any = case.data()
    part = "test" if getattr(data, "valid", getattr(data, "valid_x", None)) is None else "valid"

    def make_model(seed: int) -> nn.Module:
        return case.net()

    def fit(net: nn.Module, strength: float | None, start: Any) -> None:
        opt = Adam(net.parameters(), 0.02)
        penalty = TopK(fraction=strength or 1.0)
        method = lissom.proximal(opt, {lissom.weights(net): penalty})
        given = {"epochs": 2, "batch_size": 8, **case.options}
        Trainer(net, opt, data, case.task, method=method, **given).fit()

    def error(net: nn.Module) -> float:
        return evaluate(net, data, case.task, part).error

    curve = lissom.path(
        fit,
        [0.5, 0.3, 0.2],
        make_model=make_model,
        error=error,
        example_inputs=first_inputs(data, case.task, 2),
        seeds=1,
        error_name=case.task.error_name,
        error_unit=case.task.error_unit,
        out=tmp_path / "curve",
        progress=False,
    )
    assert not curve.failed and [s.strength for s in curve.settings] == [None, 0.5, 0.3, 0.2]
    for setting in curve.settings:
        net = curve.network(setting.points[0])
        assert error(net) == pytest.approx(setting.error, abs=1e-6)
    assert case.task.error_name in str(curve)
    page = write_curve_report([tmp_path / "curve"], tmp_path / "report.html").read_text()
    shown = "accuracy" if case.task.error_unit == "fraction" else case.task.error_name
    assert shown in page and (
        case.task.error_unit in ("", "fraction") or case.task.error_unit in page
    )

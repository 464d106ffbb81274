"""Files for LiteRT and ExecuTorch, run by a program that knows nothing of lissom."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError, export
from lissom.models import ds_cnn, lenet5

EXTRAS = {"tflite": ("litert_torch", "litert"), "pte": ("executorch", "executorch")}
formats = pytest.mark.parametrize("form", EXTRAS)


def computes(path: Path, *inputs: Tensor) -> Sequence[Any]:
    """The outputs of a file."""
    if path.suffix == ".pte":
        runtime = pytest.importorskip("executorch.runtime").Runtime.get()
        program = runtime.load_program(path.read_bytes())  # which has to live as long as its method
        return [x.numpy().copy() for x in program.load_method("forward").execute(list(inputs))]
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    run = interpreter.get_signature_runner()
    return list(run(**{f"args_{i}": x.numpy() for i, x in enumerate(inputs)}).values())


def ragged() -> nn.Module:
    """DS-CNN of odd widths, as pruning leaves it."""
    net = ds_cnn(width=12, blocks=2).eval()
    for family in lissom.channels(net, torch.rand(2, 1, 28, 28)).blocks:
        family.scale_((torch.rand(family.shape) < 0.6).float())
    return lissom.shrink(net, torch.rand(2, 1, 28, 28))


@formats
@pytest.mark.parametrize("make", [lenet5, ragged])
def test_what_was_written_computes_the_same(make: Any, form: str, tmp_path: Path) -> None:
    pytest.importorskip(EXTRAS[form][0])
    torch.manual_seed(0)
    net, path = make(), tmp_path / f"net.{form}"
    written = export(net, torch.rand(1, 1, 28, 28), path)
    assert (written.path, written.format, written.dynamic) == (path, form, False)
    assert written.bytes == path.stat().st_size > 4 * sum(p.numel() for p in net.parameters())
    assert written.difference is not None and written.difference < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    x = torch.randn(1, 1, 28, 28)
    (found,) = computes(path, x)
    assert np.allclose(found, net.eval()(x).detach(), atol=1e-5)


@formats
def test_batch_and_what_differs(form: str, tmp_path: Path) -> None:
    pytest.importorskip(EXTRAS[form][0])
    net, x = nn.Linear(5, 3), torch.rand(1, 5)
    assert not export(net, x, tmp_path / f"net.{form}", batch=4).dynamic
    assert computes(tmp_path / f"net.{form}", torch.rand(4, 5))[0].shape == (4, 3)
    with pytest.raises(LissomError, match="differs from the network, so it was not written"):
        export(nn.Softmax(1), torch.rand(2, 40), tmp_path / f"n.{form}", tolerance=0)
    assert not (tmp_path / f"n.{form}").exists()


class Two(nn.Module):
    """Several inputs and outputs, and integers."""

    def forward(self, x: Tensor, chosen: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2 + 1, nn.functional.embedding(chosen, table).mean(1)


@formats
def test_several_inputs_and_outputs(form: str, tmp_path: Path) -> None:
    pytest.importorskip(EXTRAS[form][0])
    inputs = (torch.rand(2, 3), torch.tensor([[1, 2], [0, 1]]), torch.rand(5, 3))
    assert export(Two(), inputs, tmp_path / f"net.{form}").difference < 1e-5  # type: ignore[operator]


@formats
def test_what_is_missing_is_told(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, extra = EXTRAS[form]
    for name in (library, f"{library}.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LissomError) as caught:
        export(nn.ReLU(), torch.rand(1, 3), tmp_path / f"n.{form}")
    assert str(caught.value) == (
        f"this needs {library}, which is not installed: pip install 'lissom[{extra}]'"
    )


@formats
def test_options_of_others_are_refused(form: str, tmp_path: Path) -> None:
    for option in ({"opset": 20}, {"pad": False}):
        with pytest.raises(LissomError, match=rf"\.{form} takes no {next(iter(option))}, which"):
            export(nn.ReLU(), torch.rand(1, 3), tmp_path / f"n.{form}", **option)

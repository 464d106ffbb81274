"""ONNX in int8, by ONNX Runtime's static quantization: how far off it is, and whether it is faster.

Weights are symmetric with a scale for each channel, and activations have a scale for each tensor,
which inputs to calibrate on decide. `QuantizeLinear` and `DequantizeLinear` around the operators
(QDQ) say so in the file, and a runtime takes its integer kernels from there.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.checking import Written, compare, difference_of, require_finite
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.exporting.runtime import feed_of, in_onnxruntime, opened, session_of
from lissom.running import Inputs, answers
from lissom.turns import in_turns, time_text

AT_ONCE = 32  # examples
COMPARED = 256  # examples
ROUNDS = 9


def in_int8(
    model: nn.Module, inputs: Inputs, path: Path, calibration: Inputs, float32: Written
) -> Written:
    """Replace a file of ONNX by one in int8.

    Args:
        model: the network.
        inputs: what both files are timed on.
        path: the file.
        calibration: inputs like those to come.
        float32: what is known of the file.

    Raises:
        LissomError: the calibration inputs are of another kind, a weight is NaN or infinite, the
            file differs from the network before, or ONNX Runtime cannot quantize it.
    """
    kinds = [[(x.dtype, x.shape[1:]) for x in some.tensors] for some in (inputs, calibration)]
    if kinds[0] != kinds[1]:
        raise LissomError(f"int8 is more inputs like {inputs}, to calibrate on; got {calibration}")
    require_finite(model.named_parameters(), "int8")
    difference_of(model, float32.load, inputs, float32.dynamic, None, path)
    size = min(AT_ONCE, calibration.batch) if float32.dynamic else inputs.batch
    with TemporaryDirectory() as folder:
        small = Path(folder) / "int8.onnx"
        _quantize(path, small, calibration, size)
        note = _which_is_faster(path, small, inputs)
        shutil.copyfile(small, path)
    difference = _difference(model, path, calibration, size)
    return replace(float32, notes=(*float32.notes, note), difference=difference)


def _quantize(path: Path, to: Path, calibration: Inputs, size: int) -> None:
    optional("onnxruntime")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            session = session_of(path, torch.get_num_threads())
            self._feeds = (feed_of(session, chunk) for chunk in calibration.chunks(size))

        def get_next(self) -> object:
            return next(self._feeds, None)

    prepared = to.with_name("prepared.onnx")
    try:
        with quiet():
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                to,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                extra_options={"WeightSymmetric": True},
            )
    except Exception as error:  # what it raises differs by network
        raise LissomError(
            f"ONNX Runtime cannot quantize the network: {first_line(error)}. Without int8 it is "
            "written in float32"
        ) from error


def _difference(model: nn.Module, path: Path, calibration: Inputs, size: int) -> float:
    """The largest difference of an output of the file to the network's, over the largest there."""
    file = opened(path)
    device = next(model.parameters(), torch.empty(0)).device
    chunks = calibration.with_batch(min(calibration.batch, COMPARED)).chunks(size)
    given = [chunk.map(lambda x: x.to(device)) for chunk in chunks]
    there = zip(*map(file, given), strict=True)
    here = zip(*(answers(model, chunk) for chunk in given), strict=True)
    by_output = zip(there, here, strict=True)
    return max(compare(_joined(found), _joined(own))[1] for found, own in by_output)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _which_is_faster(float32: Path, int8: Path, inputs: Inputs) -> str:
    """How long ONNX Runtime takes for two files on one thread, and which of them to use."""
    files = {"float32": float32, "int8": int8}
    calls = {name: in_onnxruntime(path, inputs, 1) for name, path in files.items()}
    cpu = torch.device("cpu")
    times = in_turns(calls, rounds=ROUNDS, device=cpu, threads=1, runtime="onnxruntime")
    before, after = times["float32"], times["int8"]
    said = (
        f"int8 takes {after.ratio:.2f} × the time of float32 here ({time_text(after.seconds)} "
        f"against {time_text(before.seconds)} in ONNX Runtime, batch {inputs.batch}, one thread)"
    )
    return said if after.ratio < 1 else f"{said}: use the float32 file"

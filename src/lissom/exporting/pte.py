"""`.pte` for ExecuTorch, with XNNPACK's kernels where it has them, checked in its runtime."""

from pathlib import Path

from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.checking import Runner, Written
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.exporting.tracing import traced
from lissom.running import Inputs

XNNPACK = "executorch.backends.xnnpack.partition.xnnpack_partitioner"


def write(model: nn.Module, inputs: Inputs, path: Path, *, batch: int | None = None) -> Written:
    """Write `.pte` for the batch size of the inputs, which is `batch` if that is given.

    A program of ExecuTorch reserves its memory beforehand, so that one size is best.
    """
    with quiet():
        exir = optional("executorch.exir", "executorch")
        xnnpack = optional(XNNPACK, "executorch")
    program, _ = traced(model, inputs, fixed=True)
    try:
        with quiet():
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()]
            )
            path.write_bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise LissomError(f"executorch cannot write the network: {first_line(error)}") from error

    def load() -> Runner:
        runtime = optional("executorch.runtime", "executorch")
        loaded = runtime.Runtime.get().load_program(path.read_bytes())

        def run_file(inputs: Inputs) -> list[Tensor]:
            method = loaded.load_method("forward")  # which must not outlive what it was loaded from
            found = method.execute([x.cpu().contiguous() for x in inputs.tensors])
            return [x.clone() for x in found]  # they lie in memory of the method

        return run_file

    return Written(load, dynamic=False)

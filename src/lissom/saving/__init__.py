"""Networks that `shrink` made, on disk: one safetensors file, in which there is no code."""

import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from lissom.arguments import as_annotated, shown
from lissom.errors import RunError
from lissom.running import named_tensors
from lissom.saving.graphs import GRAPH, graph_of, record_of_graph
from lissom.saving.modules import MODULE, module_of, record_of_module
from lissom.saving.parts import INPUT
from lissom.saving.reports import record_of_report, report_of
from lissom.shrinking import Shrinkage
from lissom.shrinking.selection import Selected
from lissom.storage import load_tensors, save_tensors


@as_annotated(RunError, "small")
def save(small: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network that `shrink` made as tensors and plain values, without any code.

    Of a module of the user's own class the file says which sizes the class has to be given, of a
    traced graph which of torch's operations it calls.

    Args:
        small: what `shrink` returned, or `load`; it may have been trained since.
        path: a safetensors file to be written, replaced if it exists.

    Raises:
        RunError: if it was not made by `shrink`, its weights are no tensors of that network, or a
            traced graph calls operations that do not come with torch.
    """
    path = Path(path)
    shrinkage = getattr(small, "shrinkage", None)
    if not isinstance(shrinkage, Shrinkage):
        raise RunError(
            f"save writes what lissom.shrink returned, got {type(small).__name__} without its "
            "report; for any other network take torch.save(model.state_dict(), path)"
        )
    if path.suffix == ".pt2":
        raise RunError(
            f"save writes a safetensors file, got {path}; lissom.export writes a .pt2 program"
        )
    net = small.net if isinstance(small, Selected) else small
    assert isinstance(net, nn.Module)
    owners: dict[int, str] = {}
    tied = {
        name: owners[id(tensor)]
        for name, tensor in named_tensors(net)
        if owners.setdefault(id(tensor), name) != name
    }
    tensors = {name: tensor for name, tensor in named_tensors(net) if name not in tied}
    inputs = shrinkage.surgery.inputs
    tensors |= {f"{INPUT}{position}": indices for position, (_, indices) in inputs.items()}
    encode, kind = (record_of_graph, GRAPH) if shrinkage.as_graph else (record_of_module, MODULE)
    record = {
        **encode(net, shrinkage.surgery),
        "tied": tied,
        "inputs": {position: dim for position, (dim, _) in inputs.items()},
        "keywords": list(small.keywords) if isinstance(small, Selected) else [],
        "report": record_of_report(shrinkage),
    }
    save_tensors(tensors, path, kind, record)


@as_annotated(RunError, "model_factory")
def load(
    path: str | os.PathLike[str], model_factory: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Read what `save` wrote; nothing in the file is executed.

    Args:
        path: the file.
        model_factory: makes the original, large network: its class or a function. Its weights do
            not matter. A traced graph needs none.

    Returns:
        The small network, in evaluation mode, with its report as `small.shrinkage`.

    Raises:
        RunError: if the file is missing or damaged, or of another network than the factory makes.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        raise RunError(
            f"{path} would be read by torch.export.load, which runs whatever code is in such a "
            "file: call that yourself if you trust the file. lissom.save writes no .pt2, but "
            "safetensors files, from which nothing is run"
        )
    record, tensors = load_tensors(path, MODULE, GRAPH)
    as_graph = record["format"] == GRAPH
    if as_graph:
        net, surgery, told = graph_of(record, tensors, path)
    elif not callable(model_factory) or isinstance(model_factory, nn.Module):
        raise RunError(
            f"{path} holds tensors and sizes, not code: load(path, model_factory) needs the class "
            f"or function that makes the original network, got {shown(model_factory)}"
        )
    else:
        net, surgery, told = module_of(record, tensors, path, model_factory())
    whole = Selected(net, surgery.inputs, record.get("keywords", ())) if surgery.inputs else net
    report = report_of(told, net, surgery, as_graph=as_graph)
    object.__setattr__(whole, "shrinkage", report)
    return whole.eval()

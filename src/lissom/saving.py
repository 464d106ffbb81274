"""A shrunk network on disk: its tensors, and how to make the user's class as small as they are."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, fx, nn

from lissom.checkpoints import save_tensors
from lissom.errors import RunError
from lissom.exporting import export
from lissom.running import named_tensors
from lissom.shrinking import Shrinkage, Surgery, operate
from lissom.shrinking.selection import Selected
from lissom.shrinking.surgery import READS

FORMAT = "lissom 1"


def save(small: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network that `shrink` made, without pickled code.

    A module of the user's own class becomes one safetensors file: tensors, and in its header which
    sizes the class has to be given. A traced graph becomes a `torch.export` program.

    Args:
        small: what `shrink` returned; it may have been trained since.
        path: a file to be written, replaced if it exists; "….pt2" for a traced graph.

    Raises:
        RunError: if it was not made by `shrink`, or its weights are no tensors of that network.
        LissomError: if a traced graph is to go into another file than a .pt2.
    """
    path = Path(path)
    shrinkage = getattr(small, "shrinkage", None)
    if not isinstance(shrinkage, Shrinkage):
        raise RunError(
            f"save writes what lissom.shrink returned, got {type(small).__name__} without its "
            "report; for any other network take torch.save(model.state_dict(), path)"
        )
    if not path.parent.is_dir():
        raise RunError(f"{path.parent} is no directory")
    if path.is_dir():
        raise RunError(f"{path} is a directory; save writes one file")
    if shrinkage.as_graph:
        export(small, shrinkage.example_inputs, path)
        return
    net = small.net if isinstance(small, Selected) else small
    assert isinstance(net, nn.Module)
    owners: dict[int, str] = {}
    tied = {
        name: owners[id(tensor)]
        for name, tensor in named_tensors(net)
        if owners.setdefault(id(tensor), name) != name
    }
    tensors = {name: tensor.detach() for name, tensor in named_tensors(net) if name not in tied}
    surgery = shrinkage.surgery
    inputs = {}
    for position, (dim, indices) in surgery.inputs.items():
        tensors[f"lissom.input{position}"] = indices
        inputs[position] = dim
    record = {
        "format": FORMAT,
        "class": type(net).__qualname__,
        "sizes": surgery.sizes,
        "attention": surgery.attention,
        "biases": list(surgery.biases),
        "inputs": inputs,
        "reads": list(surgery.reads),
        "tied": tied,
    }
    save_tensors(tensors, path, {"lissom": json.dumps(record)})


def load(
    path: str | os.PathLike[str], model_factory: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Read what `save` wrote; nothing in the file is executed.

    Args:
        path: the file.
        model_factory: makes the original, large network: its class or a function. Its weights do
            not matter. A traced graph (.pt2) needs none.

    Returns:
        The small network, in evaluation mode.

    Raises:
        RunError: if the file is missing or damaged, or of another network than the factory makes.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    if path.suffix == ".pt2":
        return _load_graph(path)
    if model_factory is None or isinstance(model_factory, nn.Module):
        raise RunError(
            f"{path} holds tensors and sizes, not code: load(path, model_factory) needs the class "
            f"or function that makes the original network, got {model_factory!r}"
        )
    record, tensors = _read(path)
    net = model_factory()
    surgery = Surgery(
        sizes=record["sizes"],
        attention={name: tuple(left) for name, left in record["attention"].items()},
        biases={name: torch.zeros_like(tensors[name]) for name in record["biases"]},
        inputs={
            int(position): (dim, tensors.pop(f"lissom.input{position}"))
            for position, dim in record["inputs"].items()
        },
        reads={path: tensors[f"{path}.{READS}"] for path in record["reads"]},
    )
    try:
        _refit(net, tensors)
        operate(net, surgery)
        with torch.no_grad():
            own = dict(named_tensors(net))
            if missing := own.keys() - tensors.keys() - record["tied"].keys():
                raise KeyError(f"nothing was saved for {', '.join(sorted(missing))}")
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise RunError(
            f"{path} was saved from a {record['class']} that is not what the factory made, "
            f"a {type(net).__name__}: {error}"
        ) from error
    small = Selected(net, surgery.inputs) if surgery.inputs else net
    return small.eval()


def _load_graph(path: Path) -> nn.Module:
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise RunError(f"{path} is not a readable torch.export program: {error}") from error
    module = program.module()
    return fx.GraphModule(module, module.graph).eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {})["lissom"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is not a file that lissom.save wrote: {error!r}") from error
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path} has the format {record.get('format')!r}, this lissom reads {FORMAT!r}"
        )
    return record, tensors


def _refit(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give every tensor the saved shape; tied ones stay tied."""
    new: dict[Tensor, Tensor] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                saved = tensors.get(f"{path}.{name}".lstrip("."))
                if old is None or saved is None or saved.shape == old.shape:
                    continue
                empty = saved.new_zeros(saved.shape).to(old)
                new[old] = (
                    nn.Parameter(empty, old.requires_grad)
                    if isinstance(old, nn.Parameter)
                    else empty
                )
    for module in net.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for table in tables:
            table.update({n: new[t] for n, t in table.items() if t is not None and t in new})

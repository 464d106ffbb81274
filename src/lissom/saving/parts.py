"""What files of modules and of graphs have in common: inputs of which only some are read."""

import torch
from torch import Tensor

INPUT = "lissom.input"  # the tensor of what is left of an input, by its position

Inputs = dict[int, tuple[int | None, Tensor]]


def take_inputs(dims: dict[int, int | None], tensors: dict[str, Tensor]) -> Inputs:
    """Take what is left of the inputs out of the tensors of a file."""
    inputs = {}
    for position, dim in dims.items():
        name = f"{INPUT}{position}"
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        inputs[position] = dim, as_indices(name, tensors.pop(name))
    return inputs


def as_indices(name: str, tensor: Tensor) -> Tensor:
    """A tensor that was read, if it can be indices."""
    if tensor.dtype != torch.int64 or tensor.ndim != 1 or bool((tensor < 0).any()):
        raise ValueError(f"{name} is no vector of indices")
    return tensor

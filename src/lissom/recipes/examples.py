"""What a network is called with, described in a record, so that it can be made without its data.

[1, 28, 28]                                     floats of this shape, an example
{"shape": [128], "dtype": "int64", "low": 0, "high": 30521}
[{…}, {…}]                                      several inputs, model(a, b)
{"input_ids": {…}, "attention_mask": {…}}       by name, model(input_ids=…, …)
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from lissom.data import Dataset, Loaders, first_inputs
from lissom.data.loaders import moved
from lissom.errors import RecipeError
from lissom.recipes.strict import Spec, Whole
from lissom.training import Task

FLOATS = ("float16", "bfloat16", "float32", "float64")


class InputSpec(Spec):
    """An input: the shape of one example, its type, and from where to where whole numbers go."""

    shape: list[Whole]
    dtype: Literal["float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool"]
    low: int = 0
    high: int = 1

    def make(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random inputs, floats in [0, 1)."""
        size, dtype = (batch, *self.shape), getattr(torch, self.dtype)
        if self.dtype in FLOATS:
            return torch.rand(size, generator=generator).to(dtype)
        return torch.randint(self.low, self.high + 1, size, generator=generator).to(dtype)


def _form(given: Any) -> str:
    if isinstance(given, InputSpec) or (
        isinstance(given, Mapping) and isinstance(given.get("dtype"), str)
    ):
        return "one"
    if isinstance(given, Mapping):
        return "named"
    tables = isinstance(given, Sequence) and all(isinstance(i, Mapping | InputSpec) for i in given)
    return "several" if tables and given else "plain"


Shape = Annotated[
    Annotated[list[Whole], Field(min_length=1), Tag("plain")]
    | Annotated[InputSpec, Tag("one")]
    | Annotated[list[InputSpec], Tag("several")]
    | Annotated[dict[str, InputSpec], Tag("named")],
    Discriminator(_form),
]


def shape_of(data: Dataset | Loaders, task: Task | None = None) -> Any:
    """The `Shape` of what a network is called with.

    Raises:
        RecipeError: for inputs that are no tensors.
    """
    if isinstance(data, Dataset):
        x = data.train_x
        return list(x.shape[1:]) if x.dtype == torch.float32 else _described("the input", x)
    inputs = first_inputs(data, task, 2)
    if isinstance(inputs, Tensor):
        plain = inputs.dtype == torch.float32 and inputs.ndim > 1
        return list(inputs.shape[1:]) if plain else _described("the input", inputs)
    if isinstance(inputs, Mapping):
        return {name: _described(name, value) for name, value in inputs.items()}
    args = inputs if isinstance(inputs, Sequence) else (*inputs.args, *inputs.kwargs.values())
    return [_described(f"input {i}", value) for i, value in enumerate(args)]


def make_example(model: nn.Module, shape: Any, batch: int = 2) -> Any:
    """Random inputs where the model is, in its precision: a tensor, a tuple of arguments, a dict.

    Args:
        model: with a parameter at least.
        shape: of one example, or the `Shape` of a record.
        batch: how many; coupled units are best found with two.
    """
    generator = torch.Generator().manual_seed(0)
    form = _form(shape)

    def made(spec: Any) -> Tensor:
        return InputSpec.model_validate(spec).make(batch, generator)

    example: Any
    if form == "plain":
        example = torch.rand(batch, *shape, generator=generator)
    elif form == "one":
        example = made(shape)
    elif form == "several":
        example = tuple(made(spec) for spec in shape)
    else:
        example = {name: made(spec) for name, spec in shape.items()}
    return moved(example, model)


def _described(name: str, value: object) -> InputSpec:
    if not isinstance(value, Tensor) or value.ndim < 1:
        raise RecipeError(
            f"a recipe's network is called with tensors [n, …], and {name} is a "
            f"{type(value).__name__}: give [task] forward, which calls it with tensors alone"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    whole = dtype not in (*FLOATS, "bool") and value.numel()
    low, high = (int(value.min()), int(value.max())) if whole else (0, 1)
    shape = list(value.shape[1:])
    return InputSpec.model_validate({"shape": shape, "dtype": dtype, "low": low, "high": high})

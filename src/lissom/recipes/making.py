"""From a recipe to the objects it names: data, model, optimizer, method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.coupling import channels, heads, neurons, units
from lissom.data import Dataset, load
from lissom.errors import GroupError, LissomError, RecipeError
from lissom.groups import Groups, blocks, columns, kernels, tiles, weights
from lissom.methods import Method
from lissom.models import build
from lissom.recipes.penalties import PenaltySpec
from lissom.recipes.specs import OptimizerSpec, Recipe

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}

# Of an example, for models that take no other.
SHAPES = {"lenet5": (1, 28, 28), "vt-cnn2": (1, 2, 128), "ahmed-modrec": (1, 2, 128)}


def make_data(recipe: Recipe, data_dir: Path | str | None = None, *, seed: int = 0) -> Dataset:
    """The recipe's data: validation examples held out, and others drawn, by `seed`."""
    data = load(recipe.data.name, data_dir, **recipe.data.options())
    data = data.hold_out(recipe.data.validation, seed) if recipe.data.validation else data
    data = data.bootstrap(seed) if recipe.data.bootstrap else data
    return data.centered() if recipe.data.center else data


def make_model(
    recipe: Recipe, shape: Sequence[int], classes: int | None, *, seed: int = 0
) -> nn.Module:
    """The recipe's network, initialised by `seed`.

    Args:
        recipe: whose [model] is made.
        shape: of one example.
        classes: how many outputs.
        seed: also of torch's global random state from here on.
    """
    torch.manual_seed(seed)
    name = recipe.model.name
    options: dict[str, Any] = recipe.model.model_dump(exclude={"name"}, exclude_none=True)
    options["classes"] = classes
    if recipe.model.activation is not None:
        options["activation"] = ACTIVATIONS[recipe.model.activation]
    if name in SHAPES and tuple(shape) != SHAPES[name]:
        what = "images" if name == "lenet5" else "vectors"
        raise RecipeError(
            f"model {name!r} takes {what} of {'×'.join(map(str, SHAPES[name]))}, but "
            f"{recipe.data.name} has examples of {'×'.join(map(str, shape))}; 'lenet300' and "
            "'henrikson' take any"
        )
    if name == "wrn28-10":
        if len(shape) != 3:
            raise RecipeError(
                f"model 'wrn28-10' takes images of channels×height×width, but {recipe.data.name} "
                f"has examples of {'×'.join(map(str, shape))}"
            )
        options["channels"] = shape[0]
    elif name not in SHAPES:
        options["inputs"] = list(shape) if name == "cnn" else torch.Size(shape).numel()
    return build(name, **options)


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """The torch optimizer that the recipe names, for all the model's parameters."""
    return spec.make(model.parameters())


def make_example(model: nn.Module, shape: Sequence[int], batch: int = 2) -> Tensor:
    """Random inputs where the model is.

    Args:
        model: with a parameter at least.
        shape: of one example.
        batch: how many; coupled units are best found with two.
    """
    made = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    return made.to(next(model.parameters()).device)


def make_method(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Optimizer,
    shape: Sequence[int],
    steps_per_epoch: int,
) -> Method | None:
    """The recipe's method on the model and the optimizer; None for a recipe without one.

    Args:
        recipe: whose [method] and [[penalties]] are made.
        model: whose weights may vanish.
        optimizer: of the model's parameters.
        shape: of one example, from which the model's coupled units are found.
        steps_per_epoch: the unit of the recipe's times.

    Raises:
        RecipeError: for groups that this model has not, naming the entry, or what the method
            refuses on this model.
    """
    if recipe.method is None:
        return None
    example_inputs = make_example(model, shape)
    penalties = {}
    for i, spec in enumerate(recipe.penalties):
        try:
            penalties[make_groups(spec, model, example_inputs)] = spec.penalty(steps_per_epoch)
        except GroupError as error:
            raise RecipeError(f"penalties.{i} for model {recipe.model.name!r}: {error}") from error
    kind, options = recipe.method.type, recipe.method.options(steps_per_epoch)
    try:
        return kind.attach(optimizer, model, penalties, options, example_inputs)
    except LissomError as error:
        what = f"method.{error.field}" if error.field else f"method {kind.name!r}"
        raise RecipeError(f"{what} for model {recipe.model.name!r}: {error}") from error


COUPLED = {"channels": channels, "neurons": neurons, "heads": heads, "units": units}


def make_groups(spec: PenaltySpec, model: nn.Module, example_inputs: Tensor) -> Groups:
    """The groups that an entry of [[penalties]] chooses in a model."""
    if spec.groups in COUPLED:
        made = COUPLED[spec.groups](model, example_inputs, inputs=spec.inputs)
    elif spec.groups == "kernels":
        made = kernels(model)
    elif spec.groups == "columns":
        made = columns(model)
    elif spec.tile is not None:
        made = tiles(model, (spec.tile[0], spec.tile[1]))
    elif spec.run is not None:
        made = blocks(model, spec.run)
    else:
        made = weights(model, biases=spec.biases)
    made = made.only(*spec.only) if spec.only else made
    return made.without(*spec.without) if spec.without else made

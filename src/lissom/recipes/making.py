"""From a recipe to the objects it names: data, model, prices, gates, optimizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.coupling import channels, heads, neurons, units
from lissom.data import Dataset, load
from lissom.errors import CompressionError, GateError, GroupError, RecipeError, RunError
from lissom.gates import Gates, gate
from lissom.groups import Groups, columns, kernels, weights
from lissom.learning_compression import LC, lc
from lissom.models import build
from lissom.penalties import Penalty
from lissom.recipes.prices import PriceSpec
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


def make_model(recipe: Recipe, shape: Sequence[int], classes: int, *, seed: int = 0) -> nn.Module:
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


def make_optimizer(
    spec: OptimizerSpec, model: nn.Module, gates: Gates | None = None, gate_lr: float | None = None
) -> Optimizer:
    """The torch optimizer that the recipe names, for all the model's parameters.

    Args:
        spec: the recipe's [optimizer].
        model: whose parameters are trained.
        gates: that are on it; log α gets a param group of its own.
        gate_lr: of log α; 10·lr if not given.
    """
    if gates is None:
        return spec.make(model.parameters())
    return spec.make(gates.param_groups(spec.lr, gate_lr))


def make_example(model: nn.Module, shape: Sequence[int], batch: int = 2) -> Tensor:
    """Random inputs where the model is.

    Args:
        model: with a parameter at least.
        shape: of one example.
        batch: how many; coupled units are best found with two.
    """
    made = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    return made.to(next(model.parameters()).device)


def make_prices(
    recipe: Recipe, model: nn.Module, shape: Sequence[int], steps_per_epoch: int
) -> dict[Groups, Penalty]:
    """{groups: penalty} as the recipe's [[prices]] say.

    Args:
        recipe: whose [[prices]] are made.
        model: whose weights are priced.
        shape: of one example, from which the model's coupled units are found.
        steps_per_epoch: the unit of the recipe's schedules.

    Raises:
        RecipeError: for groups that this model has not, naming the price.
    """
    found = _groups_of(recipe, model, shape)
    return {groups: price.penalty(steps_per_epoch) for groups, price in found}


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give the recipe's model the tensors of a file.

    Raises:
        RunError: if they are of another model.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the recipe beside it: {error}") from error


def make_gates(
    recipe: Recipe, model: nn.Module, shape: Sequence[int], steps_per_epoch: int
) -> Gates:
    """The recipe's gates, on the model, with their budgets.

    Args:
        recipe: with method "gates".
        model: that gets them.
        shape: of one example.
        steps_per_epoch: the unit of the recipe's schedules.

    Raises:
        RecipeError: for groups that this model has not, or a budget that it cannot meet.
    """
    spec = recipe.gates
    assert spec is not None
    found = _groups_of(recipe, model, shape)
    drops = {g: spec.init if price.init is None else price.init for g, price in found}
    prices = {groups: price.penalty(steps_per_epoch) for groups, price in found}
    example = make_example(model, shape)
    try:
        gates = gate(
            model,
            prices,
            init=drops,
            per=spec.per,
            test=spec.test,
            draws=spec.draws,
            example=example,
        )
        if spec.budget is not None:
            gates.constrain(**spec.budget.targets(steps_per_epoch))
    except GateError as error:
        raise RecipeError(f"gates for model {recipe.model.name!r}: {error}") from error
    return gates


def make_lc(recipe: Recipe, model: nn.Module, shape: Sequence[int], optimizer: Optimizer) -> LC:
    """The recipe's learning–compression on the model.

    Args:
        recipe: with method "lc".
        model: whose weights are compressed.
        shape: of one example.
        optimizer: of the L steps.

    Raises:
        RecipeError: for groups that this model has not, or compressions that cannot be.
    """
    spec = recipe.lc
    assert spec is not None
    # Schedules are read by C steps, of which there are 1/each in an epoch.
    made = {g: p.compression(1 / spec.each) for g, p in _groups_of(recipe, model, shape)}
    try:
        return lc(model, made, optimizer=optimizer, **spec.arguments())
    except CompressionError as error:
        raise RecipeError(f"lc for model {recipe.model.name!r}: {error}") from error


def _groups_of(
    recipe: Recipe, model: nn.Module, shape: Sequence[int]
) -> list[tuple[Groups, PriceSpec]]:
    found = []
    example = make_example(model, shape)
    for i, price in enumerate(recipe.prices):
        try:
            found.append((_groups(price, model, example), price))
        except GroupError as error:
            raise RecipeError(f"prices.{i} for model {recipe.model.name!r}: {error}") from error
    return found


COUPLED = {"channels": channels, "neurons": neurons, "heads": heads, "units": units}


def _groups(price: PriceSpec, model: nn.Module, example: Tensor) -> Groups:
    if price.groups in COUPLED:
        made = COUPLED[price.groups](model, example, inputs=price.inputs)
    elif price.groups == "kernels":
        made = kernels(model)
    elif price.groups == "columns":
        made = columns(model)
    else:
        made = weights(model, biases=price.biases)
    made = made.only(*price.only) if price.only else made
    return made.without(*price.without) if price.without else made

"""From a recipe to the objects it names: data, model, optimizer, prices, trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.coupling import channels, heads, neurons, units
from lissom.data import Dataset, load
from lissom.errors import GroupError, RecipeError
from lissom.groups import Groups, kernels, weights
from lissom.models import build
from lissom.penalties import Penalty
from lissom.proximal import proximal
from lissom.recipes.prices import PriceSpec
from lissom.recipes.specs import OptimizerSpec, Recipe
from lissom.schedules import cosine, linear
from lissom.training import Report, Trainer, steps_per_epoch, usable_device


def make_data(recipe: Recipe, data_dir: Path | str | None = None, *, seed: int = 0) -> Dataset:
    """The recipe's data, with its validation examples held out by `seed`."""
    data = load(recipe.data.name, data_dir)
    return data.hold_out(recipe.data.validation, seed) if recipe.data.validation else data


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
    options: dict[str, Any] = {"classes": classes}
    if name == "lenet5" and tuple(shape) != (1, 28, 28):
        raise RecipeError(
            f"model 'lenet5' takes images of 1×28×28, but {recipe.data.name} has examples of "
            f"{'×'.join(map(str, shape))}; 'lenet300' and 'henrikson' take any"
        )
    if name != "lenet5":
        options["inputs"] = list(shape) if name == "cnn" else torch.Size(shape).numel()
    if recipe.model.input_dropout is not None:
        options["input_dropout"] = recipe.model.input_dropout
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
    prices = {}
    example = make_example(model, shape)
    for i, price in enumerate(recipe.prices):
        try:
            groups = _groups(price, model, example)
        except GroupError as error:
            raise RecipeError(f"prices.{i} for model {recipe.model.name!r}: {error}") from error
        prices[groups] = price.penalty(steps_per_epoch)
    return prices


def make_trainer(
    recipe: Recipe,
    data: Dataset,
    *,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    report: Report | None = None,
) -> Trainer:
    """Everything put together and ready to `fit`."""
    shape, classes = data.train_x.shape[1:], data.classes
    model = make_model(recipe, shape, classes, seed=seed).to(usable_device(device))
    optimizer = make_optimizer(recipe.optimizer, model)
    train = recipe.train
    epoch = steps_per_epoch(data, train.batch_size)
    prices = make_prices(recipe, model, shape, epoch)
    step, subgradient = None, recipe.method == "subgradient"
    if prices and not subgradient:
        spec = recipe.proximal
        step = proximal(
            optimizer,
            prices,
            every=epoch if spec.every == "epoch" else spec.every,
            metric=spec.metric,
            start=spec.start * epoch,
            freeze_at=None if spec.freeze is None else spec.freeze * epoch,
        )
    factor = None
    if train.cosine_from is not None:
        flat = linear(1, 1, train.cosine_from * epoch)
        factor = flat.then(cosine(1, 0, (train.epochs - train.cosine_from) * epoch))
    shared = train.model_dump(exclude={"cosine_from"})
    return Trainer(
        model,
        optimizer,
        data,
        proximal=step,
        penalties=prices if subgradient else None,
        out=out,
        report=report,
        lr_factor=factor,
        device=device,
        seed=seed,
        **shared,
    )


COUPLED = {"channels": channels, "neurons": neurons, "heads": heads, "units": units}


def _groups(price: PriceSpec, model: nn.Module, example: Tensor) -> Groups:
    if price.groups in COUPLED:
        made = COUPLED[price.groups](model, example, inputs=price.inputs)
    elif price.groups == "kernels":
        made = kernels(model)
    else:
        made = weights(model, biases=price.biases)
    made = made.only(*price.only) if price.only else made
    return made.without(*price.without) if price.without else made

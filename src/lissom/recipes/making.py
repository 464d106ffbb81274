"""From a recipe to the objects it names: data, model, optimizer, prices, trainer."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lissom.budgets import L1Ball, TopK
from lissom.data import Dataset, load
from lissom.errors import RecipeError
from lissom.groups import Groups, kernels, weights
from lissom.models import build
from lissom.penalties import L0, L1, L2, Penalty, Threshold
from lissom.proximal import proximal
from lissom.recipes.specs import NumberSpec, OptimizerSpec, PriceSpec, RampSpec, Recipe
from lissom.schedules import Schedule, cosine, cubic, exponential, linear
from lissom.training import Report, Trainer

SHAPES: Mapping[str, Callable[[float, float, int], Schedule]] = {
    "linear": linear,
    "cubic": cubic,
    "exponential": exponential,
    "cosine": cosine,
}


def make_data(recipe: Recipe, data_dir: Path | str | None = None, *, seed: int = 0) -> Dataset:
    """The recipe's data, with its validation examples held out by `seed`."""
    data = load(recipe.data.name, data_dir)
    return data.hold_out(recipe.data.validation, seed) if recipe.data.validation else data


def make_model(recipe: Recipe, data: Dataset, *, seed: int = 0) -> nn.Module:
    """The recipe's network for these data, initialised by `seed`."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"classes": data.classes}
    if recipe.model.name != "lenet5":
        options["inputs"] = data.train_x[0].numel()
    elif data.train_x.shape[1:] != (1, 28, 28):
        raise RecipeError(
            f"model 'lenet5' takes images of 1×28×28, but {data.name} has examples of "
            f"{tuple(data.train_x.shape[1:])}; 'lenet300' and 'henrikson' take any"
        )
    if recipe.model.input_dropout is not None:
        options["input_dropout"] = recipe.model.input_dropout
    return build(recipe.model.name, **options)


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """The torch optimizer that the recipe names, for all the model's parameters."""
    factory = getattr(torch.optim, spec.name)
    options = spec.model_dump(exclude_none=True, exclude={"name", "beta1", "beta2"})
    if spec.beta1 is not None or spec.beta2 is not None:
        options["betas"] = (
            0.9 if spec.beta1 is None else spec.beta1,
            0.999 if spec.beta2 is None else spec.beta2,
        )
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            raise RecipeError(f"optimizer.{option} is not an argument of torch.optim.{spec.name}")
    try:
        made: Optimizer = factory(model.parameters(), **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"torch.optim.{spec.name} refuses {options}: {error}") from error
    return made


def make_prices(recipe: Recipe, model: nn.Module, steps_per_epoch: int) -> dict[Groups, Penalty]:
    """{groups: penalty} as the recipe's [[prices]] say."""
    return {_groups(price, model): _penalty(price, steps_per_epoch) for price in recipe.prices}


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
    model = make_model(recipe, data, seed=seed).to(device)
    optimizer = make_optimizer(recipe.optimizer, model)
    train = recipe.train
    epoch = -(-len(data.train_y) // train.batch_size)
    prices = make_prices(recipe, model, epoch)
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


def _groups(price: PriceSpec, model: nn.Module) -> Groups:
    made = kernels(model) if price.groups == "kernels" else weights(model, biases=price.biases)
    made = made.only(*price.only) if price.only else made
    return made.without(*price.without) if price.without else made


def _penalty(price: PriceSpec, epoch: int) -> Penalty:
    """The sum of the penalties of one price; a sum without a closed form is refused by `+`."""
    terms: list[Penalty] = []
    for make, number in (
        (L0, price.l0),
        (L1, price.l1),
        (L2, price.l2),
        (Threshold, price.threshold),
    ):
        if number is not None:
            terms.append(make(_number(number, epoch)))
    if price.top_k is not None:
        spec = price.top_k
        count = None if spec.count is None else _number(spec.count, epoch)
        fraction = None if spec.fraction is None else _number(spec.fraction, epoch)
        whole = int(count) if isinstance(count, float) and count.is_integer() else count
        terms.append(TopK(whole, fraction=fraction, per_layer=spec.per_layer))  # type: ignore[arg-type]
    if price.l1_ball is not None:
        radius = _number(price.l1_ball.radius, epoch)
        terms.append(L1Ball(radius, per_layer=price.l1_ball.per_layer))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _number(spec: NumberSpec, epoch: int) -> float | Schedule:
    if not isinstance(spec, list):
        return float(spec)
    pieces: list[Schedule] = []
    for ramp in spec:
        pieces.append(_ramp(ramp, pieces[-1].end if pieces else None, epoch))
    total = pieces[-1]
    for piece in reversed(pieces[:-1]):
        total = piece.then(total)
    return total


def _ramp(ramp: RampSpec, before: float | None, epoch: int) -> Schedule:
    start = ramp.start if ramp.start is not None else before
    if start is None:
        raise RecipeError("the first piece of a schedule needs a start, as in start = 1.0")
    return SHAPES[ramp.shape](start, ramp.end, round(ramp.epochs * epoch))

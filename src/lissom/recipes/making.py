"""From a recipe to the objects it names: data, model, optimizer, method."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as MapStyle

from lissom.arguments import shown
from lissom.coupling import channels, heads, neurons, units
from lissom.data import Dataset, Loaders, load, load_files, load_hub
from lissom.errors import GroupError, LissomError, RecipeError
from lissom.groups import Groups, blocks, columns, kernels, tiles, weights
from lissom.importing import called_with, imported_function
from lissom.methods import Method
from lissom.models import build, options_of
from lissom.recipes.examples import make_example
from lissom.recipes.models import OwnModelSpec
from lissom.recipes.optimizers import OptimizerSpec
from lissom.recipes.penalties import PenaltySpec
from lissom.recipes.specs import Recipe
from lissom.recipes.tasks import TaskSpec
from lissom.training import Task
from lissom.training.evaluation import CLASSES


def make_data(
    recipe: Recipe, data_dir: Path | str | None = None, *, seed: int = 0
) -> Dataset | Loaders:
    """The recipe's data: validation examples held out, and others drawn, by `seed`."""
    spec = recipe.data
    if spec.kind == "make":
        data = _own_data(recipe)
    elif spec.kind == "name":
        data = load(str(spec.name), data_dir, **spec.options())
    else:
        options = {"targets": recipe.task.targets, **spec.options()}
        path, hub = spec.files, spec.hub
        data = load_files(path, data_dir, **options) if path else load_hub(str(hub), **options)
    changes = {"validation": spec.validation, "bootstrap": spec.bootstrap, "center": spec.center}
    if isinstance(data, Loaders):
        for name, wanted in changes.items():
            if wanted:
                what = (
                    f"batches of {spec.make} are as they come: leave this out, and see to it there"
                )
                raise RecipeError(f"data.{name}: {what}", field=name)
        return data
    data = data.hold_out(spec.validation, seed) if spec.validation else data
    data = data.bootstrap(seed) if spec.bootstrap else data
    return data.centered() if spec.center else data


def make_dataset(recipe: Recipe, data_dir: Path | str | None = None, *, seed: int = 0) -> Dataset:
    """The recipe's data where they are needed in memory, with labels.

    Raises:
        RecipeError: for data that come in batches, or whose targets are no labels.
    """
    data = make_data(recipe, data_dir, seed=seed)
    if not isinstance(data, Dataset) or data.classes is None:
        what = "comes in batches" if isinstance(data, Loaders) else "has targets that are no labels"
        raise RecipeError(f"{data.name} {what}; this needs labelled examples in memory")
    return data


def _own_data(recipe: Recipe) -> Dataset | Loaders:
    """What the user's function gives: data, or (train, valid, test) of torch's kinds."""
    spec = recipe.data
    path = str(spec.make)
    function = imported_function(path, what="data", error=RecipeError, field="make")
    made = called_with(function, spec.options(), who=f"data {path!r}", error=RecipeError)
    if isinstance(made, Dataset | Loaders):
        return made
    if not isinstance(made, tuple | list) or len(made) not in (2, 3):
        raise RecipeError(
            f"data {path!r} gives a lissom.data.Dataset, lissom.data.Loaders, or (train, valid, "
            f"test) of torch datasets or DataLoaders; got {shown(made)}"
        )
    train, *others = made
    return Loaders(
        _batches(train, recipe.train.batch_size, shuffle=True),
        _batches(others[-1], recipe.train.batch_size),
        _batches(others[0], recipe.train.batch_size) if len(others) == 2 else None,
        name=path,
    )


def _batches(given: Any, batch_size: int, *, shuffle: bool = False) -> Any:
    """A torch dataset in batches; a loader, and nothing, as they are."""
    if isinstance(given, IterableDataset):
        return DataLoader(given, batch_size)
    if isinstance(given, MapStyle):
        return DataLoader(given, batch_size, shuffle=shuffle)
    return given


def make_task(recipe: Recipe) -> Task:
    """What the recipe's network is trained for and judged by."""
    return CLASSES if recipe.task == TaskSpec() else recipe.task.make()


def make_model(recipe: Recipe, shape: Any, classes: int | None, *, seed: int = 0) -> nn.Module:
    """The recipe's network, initialised by `seed`.

    Args:
        recipe: whose [model] is made.
        shape: of one example.
        classes: how many outputs; None where the targets are no labels.
        seed: also of torch's global random state from here on.

    Raises:
        RecipeError: for a network of lissom's that does not take such inputs, or what a function of
            the user's raises.
    """
    spec = recipe.model
    if isinstance(spec, OwnModelSpec):
        torch.manual_seed(seed)
        function = imported_function(spec.make, what="model", error=RecipeError, field="make")
        made = called_with(function, spec.arguments, who=f"model {spec.make!r}", error=RecipeError)
        if not isinstance(made, nn.Module):
            raise RecipeError(f"model {spec.make!r} makes a torch.nn.Module, got {shown(made)}")
        return _in_precision(made, recipe)
    if (
        classes is None
        or not isinstance(shape, list | tuple)
        or not all(isinstance(size, int) for size in shape)
    ):
        what = "labels" if classes is None else "floats"
        raise RecipeError(
            f"model {spec.name!r} is of one input of floats, for labels, and {recipe.data.called} "
            f'has no {what}: name a network of your own, make = "my.nets:net"'
        )
    taken = options_of(spec.name)
    counted = "inputs" in taken and isinstance(taken["inputs"].default, int)
    sizes = {
        "classes": classes,
        "channels": shape[0] if shape else 1,
        "inputs": torch.Size(shape).numel() if counted else shape,
    }
    options = spec.arguments | {key: size for key, size in sizes.items() if key in taken}
    try:
        with torch.device("meta"):
            build(spec.name, **options)(torch.empty(2, *shape))
    except (LissomError, RuntimeError) as error:
        raise RecipeError(
            f"model {spec.name!r} does not take examples of {'×'.join(map(str, shape))}, as "
            f"{recipe.data.called} has: {error}; 'lenet300' and 'henrikson' take any"
        ) from error
    torch.manual_seed(seed)
    return _in_precision(build(spec.name, **options), recipe)


def _in_precision(model: nn.Module, recipe: Recipe) -> nn.Module:
    """With the weights of the precision in which it is trained, and so kept and measured."""
    dtype = recipe.train.dtype
    return model if dtype is None else model.to(dtype)


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """The torch optimizer that the recipe names, for all the model's parameters."""
    return spec.make(model.parameters())


def make_method(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Optimizer,
    shape: Any,
    steps_per_epoch: int,
) -> Method | None:
    """The recipe's method on the model and the optimizer; None for a recipe without one.

    Args:
        recipe: whose [method] and [[penalties]] are made.
        model: whose weights may vanish.
        optimizer: of the model's parameters.
        shape: of one example, or the `Shape` of a record: from it coupled units are found.
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
            raise RecipeError(
                f"penalties.{i} for model {recipe.model.called!r}: {error}"
            ) from error
    kind, options = recipe.method.type, recipe.method.options(steps_per_epoch)
    try:
        return kind.attach(optimizer, model, penalties, options, example_inputs)
    except LissomError as error:
        what = f"method.{error.field}" if error.field else f"method {kind.name!r}"
        raise RecipeError(f"{what} for model {recipe.model.called!r}: {error}") from error


COUPLED = {"channels": channels, "neurons": neurons, "heads": heads, "units": units}


def make_groups(spec: PenaltySpec, model: nn.Module, example_inputs: Any) -> Groups:
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

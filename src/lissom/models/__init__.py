"""The papers' networks, as plain `nn.Sequential`s, by function or by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from lissom.arguments import as_annotated
from lissom.errors import RecipeError, nearest
from lissom.models.cnn import cnn
from lissom.models.ds_cnn import ds_cnn
from lissom.models.lenet5 import lenet5
from lissom.models.mlp import henrikson, lenet300, mlp
from lissom.models.modrec import ahmed_modrec, vt_cnn2
from lissom.models.resnet import resnet
from lissom.models.vgg import vgg
from lissom.models.wrn import wide_resnet

__all__ = [
    "ahmed_modrec",
    "build",
    "cnn",
    "ds_cnn",
    "henrikson",
    "lenet5",
    "lenet300",
    "mlp",
    "resnet",
    "vgg",
    "vt_cnn2",
    "wide_resnet",
]

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "ahmed-modrec": ahmed_modrec,
        "cnn": cnn,
        "ds-cnn": ds_cnn,
        "henrikson": henrikson,
        "lenet300": lenet300,
        "lenet5": lenet5,
        "mlp": mlp,
        "resnet20": resnet,
        "resnet56": partial(resnet, depth=56),
        "vgg": vgg,
        "vt-cnn2": vt_cnn2,
        "wrn16-4": partial(wide_resnet, depth=16, widen=4),
        "wrn28-10": wide_resnet,
    }
)


@as_annotated(RecipeError)
def build(name: str, /, **options: object) -> nn.Module:
    """The network called `name`, made with `options`: what a recipe's `[model]` table says.

    Args:
        name: "ahmed-modrec", "cnn", "ds-cnn", "henrikson", "lenet300", "lenet5", "mlp", "resnet20",
            "resnet56", "vgg", "vt-cnn2", "wrn16-4" or "wrn28-10".
        **options: the arguments of the function of that name.

    Raises:
        RecipeError: the name is unknown, an option is not the network's, or one it needs is not
            given.
        LissomError: an option has an impossible value.
    """
    if name not in MODELS:
        raise RecipeError(f"there is no model {name!r}.{nearest(name, MODELS)}", field="name")
    parameters = options_of(name)
    for option in options:
        if option not in parameters:
            having = [repr(other) for other in MODELS if option in options_of(other)]
            told = "." + nearest(option, parameters)
            if having:
                told = f"; only {' and '.join(having)} {'has' if len(having) == 1 else 'have'}"
            raise RecipeError(f"model {name!r} has no {option}{told}", field=option)
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise RecipeError(f"model {name!r} needs the option {option!r}")
    return MODELS[name](**options)


def options_of(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of the network called `name`, with their defaults."""
    return inspect.signature(MODELS[name]).parameters

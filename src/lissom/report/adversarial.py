"""How often networks are led astray along a curve: whether small ones are easier to mislead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lissom.arguments import as_annotated
from lissom.attacks import Attack, adversarial_accuracy
from lissom.curves import Curve
from lissom.curves.running import MakeModel
from lissom.curves.storing import name_of
from lissom.errors import LissomError
from lissom.report.by_point import ByPoint


@dataclass(frozen=True)
class AdversarialCurve(ByPoint):
    """The accuracy under attacks of each radius at each point of a curve.

    Attributes:
        radii: of the attacks, in the units of the inputs; 0 for none.
        points: {"seed0/dense": accuracies in [0, 1]}, one for each radius, by the point's folder.
    """

    radii: tuple[float, ...]
    points: Mapping[str, tuple[float, ...]]


@as_annotated(LissomError)
def adversarial_curve(
    curve: Curve,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    attack: Attack = "fgsm",
    make_model: MakeModel | None = None,
    **options: Any,
) -> AdversarialCurve:
    """For each point and radius: the fraction of inputs classified rightly under an attack.

        found = adversarial_curve(curve, data.test_x, data.test_y, (0, 0.05, 0.1), "pgd")
        per_radius(curve, found)

    Args:
        curve: whose shrunk networks are attacked, all of them, each by its own gradients.
        x: inputs [n, …] on the CPU.
        y: their classes [n].
        radii: in the units of x; 0 for no attack.
        attack: "fgsm" or "pgd".
        make_model: make_model(seed); needed where `Curve.load` was not given it.
        options: other arguments of `adversarial_accuracy`, such as clip=None or restarts=3.

    Raises:
        AttackError: for whatever the attack cannot do.
        PathError: if nothing makes the networks.
    """
    sizes = tuple(float(radius) for radius in radii)
    points = {}
    for point in curve.points:
        if point.failed:
            continue
        net = curve.network(point, make_model)
        found = adversarial_accuracy(net, x, y, sizes, attack, **options)
        points[name_of(point)] = tuple(found[radius] for radius in sizes)
    return AdversarialCurve(sizes, points)

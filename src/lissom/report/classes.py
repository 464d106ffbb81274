"""How well each class is recognised along a curve: which of them small networks give up first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lissom.arguments import as_annotated
from lissom.curves import Curve
from lissom.curves.running import MakeModel
from lissom.curves.storing import name_of
from lissom.errors import LissomError, PathError
from lissom.report.by_point import ByPoint
from lissom.report.confusion import confusions
from lissom.storage import checked, load_json, save_json
from lissom.training.evaluation import check_labelled

FILE, KIND = "classes.json", "lissom classes 1"


@dataclass(frozen=True)
class ClassAccuracy(ByPoint):
    """The accuracy of each class at each point of a curve.

    Attributes:
        names: of the classes that have examples, in the order of their labels.
        points: {"seed0/dense": accuracies in [0, 1]}, one for each class, by the point's folder.
    """

    names: tuple[str, ...]
    points: Mapping[str, tuple[float, ...]]

    def save(self, out: Path) -> None:
        """Write classes.json into the path's folder, where the report looks for it."""
        save_json({"names": self.names, "points": dict(self.points)}, out / FILE, KIND)

    @classmethod
    def load(cls, out: Path) -> "ClassAccuracy | None":
        """What `save` wrote; None if there is nothing.

        Raises:
            RunError: if the file is damaged, or not of this version.
        """
        if not (out / FILE).exists():
            return None
        return checked(cls, load_json(out / FILE, KIND), out / FILE)


@as_annotated(LissomError)
def class_accuracy(
    curve: Curve,
    x: Tensor,
    y: Tensor,
    make_model: MakeModel | None = None,
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 2000,
) -> ClassAccuracy:
    """For each point and class c: the fraction of {i: yᵢ = c} whose largest logit is the c-th.

        class_accuracy(curve, data.test_x, data.test_y).save(curve.out)    # shown on the page

    Args:
        curve: whose shrunk networks are run, all of them.
        x: inputs [n, …] on the CPU.
        y: labels [n], from 0 on. A class without an example has no accuracy, and is left out.
        make_model: make_model(seed); needed where `Curve.load` was not given it.
        names: of the classes; their numbers by default.
        batch_size: how many inputs a network gets at a time.

    Raises:
        LissomError: for x and y of different lengths, or a label ≥ the number of logits.
        PathError: for labels without a name, or if nothing makes the networks.

    Source: Ahmed, fig. 7.
    """
    check_labelled(x, y)
    counts = torch.bincount(y)
    called = tuple(map(str, range(len(counts)) if names is None else names))
    if len(called) < len(counts):
        raise PathError(f"y has {len(counts)} classes, and there are {len(called)} names: {called}")
    known = counts.nonzero()[:, 0]
    points = {}
    for point in curve.points:
        if point.failed:
            continue
        confused = confusions(curve.network(point, make_model), x, y, batch_size=batch_size)
        points[name_of(point)] = tuple((confused.diagonal()[known] / counts[known]).tolist())
    return ClassAccuracy(tuple(called[c] for c in known.tolist()), points)

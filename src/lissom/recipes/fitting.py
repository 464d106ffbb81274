"""The points of a curve as a recipe makes them: what `lissom.path` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lissom.curves import Curve, Start, path
from lissom.curves.telling import Listener
from lissom.data import Dataset
from lissom.errors import RecipeError
from lissom.recipes.making import make_data, make_example, make_model
from lissom.recipes.paths import path_of, point_recipe, strength_of, why_no_point
from lissom.recipes.specs import Recipe
from lissom.recipes.trainers import TEACHER, make_teacher, make_trainer
from lissom.training import Teacher, loss_and_error, usable_device

DATA_SEED = 0  # the same examples are held out for all points, or they could not be compared


@dataclass(frozen=True)
class RecipePath:
    """A recipe with a [path], its data, and the folder of its curve.

    Attributes:
        recipe: with a [path].
        out: the folder.
        data_dir: of data sets.
        device: to train on.

    Raises:
        RecipeError: for a recipe without a [path].
    """

    recipe: Recipe
    out: Path
    data_dir: Path | None = None
    device: str = "cpu"
    _teachers: dict[int, Teacher] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path_of(self.recipe)  # refuses one without

    @cached_property
    def data(self) -> Dataset:
        """With the same examples held out for all seeds."""
        return make_data(self.recipe, self.data_dir, seed=DATA_SEED)

    def check(self, from_scratch: Sequence[float] = ()) -> None:
        """Refuse what cannot be trained, before there are files of it, or points that fail.

        Raises:
            RecipeError: for a strength that the recipe cannot have.
            RunError: for a device that cannot be used.
        """
        for strength in from_scratch:
            if reason := why_no_point(self.recipe, strength):
                raise RecipeError(f"a point from scratch: {reason}")
        usable_device(self.device)

    def run(
        self,
        jobs: int = 1,
        from_scratch: Sequence[float] = (),
        *,
        retry_failed: bool = False,
        progress: Listener | Literal[False] | None = None,
    ) -> Curve:
        """Make the curve, or go on with it.

        Args:
            jobs: processes, for seeds side by side.
            from_scratch: strengths that are trained from untrained networks too, for the dense
                one's epochs.
            retry_failed: make the points that failed again.
            progress: as for `lissom.path`.

        Raises:
            RecipeError: for a strength that the recipe cannot have.
        """
        spec = path_of(self.recipe)
        self.check(from_scratch)
        return path(
            self.fit,
            spec.strengths,
            make_model=self.make_model,
            error=self.error,
            test=self.test,
            example_inputs=make_example(self.make_model(0), self.data.train_x.shape[1:]),
            points=spec.points,
            seeds=spec.seeds,
            from_scratch=from_scratch,
            strength_name=strength_of(self.recipe).label,
            round_to=spec.round_to,
            inputs=spec.inputs,
            latency=spec.latency,
            out=self.out,
            jobs=jobs,
            retry_failed=retry_failed,
            progress=progress,
        )

    def make_model(self, seed: int) -> nn.Module:
        """The untrained network of a seed."""
        return make_model(self.recipe, self.data.train_x.shape[1:], self.data.classes, seed=seed)

    def fit(self, net: nn.Module, strength: float | None, start: Start) -> dict[str, Any]:
        """Train a point on from the one before, its optimizer too."""
        before = None if start.state is None else start.state["strength"]
        untrained = start.number == 0
        recipe = point_recipe(self.recipe, strength, before, untrained=untrained)
        trainer = make_trainer(
            recipe,
            self.data,
            seed=start.seed,
            device=self.device,
            out=start.folder,
            model=net,
            teacher=self._teacher(start.seed),
        )
        if trainer.method is not None:
            trainer.method.warm_start(None if start.state is None else start.state["optimizer"])
        if start.folder is not None and (start.folder / "checkpoint.pt").exists():
            trainer.resume()
        trainer.fit()
        net.cpu()
        return {"strength": strength, "optimizer": trainer.optimizer.state_dict()}

    def error(self, net: nn.Module) -> float:
        """The fraction of the held-out examples that is classified wrongly."""
        assert self.data.valid_x is not None
        assert self.data.valid_y is not None
        return loss_and_error(net, self.data.valid_x, self.data.valid_y)[1]

    def test(self, net: nn.Module) -> float:
        """The fraction of the test examples that is classified wrongly."""
        return loss_and_error(net, self.data.test_x, self.data.test_y)[1]

    def _teacher(self, seed: int) -> Teacher | None:
        """One for all points of a seed."""
        spec = self.recipe.teacher
        if spec is None:
            return None
        if seed not in self._teachers:
            folder = self.out / f"{TEACHER}-seed{seed}"
            made = make_teacher(spec, self.data, seed=seed, device=self.device, out=folder)
            self._teachers[seed] = made
        return self._teachers[seed]

    def __getstate__(self) -> dict[str, Any]:
        """Without the data and teachers, which another process reads anew."""
        state = {k: v for k, v in self.__dict__.items() if k != "data"}
        return {**state, "_teachers": {}}

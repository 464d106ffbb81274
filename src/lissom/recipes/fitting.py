"""The points of a curve as a recipe makes them: what `lissom.path` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lissom.curves import Curve, Start, path
from lissom.curves.cutting import ORDER
from lissom.curves.makers import Executors
from lissom.curves.telling import Listener
from lissom.data import Dataset, Loaders
from lissom.errors import RecipeError
from lissom.measuring.runtimes import runtime_named
from lissom.recipes.examples import make_example, shape_of
from lissom.recipes.making import make_data, make_model, make_task
from lissom.recipes.paths import path_of, point_recipe, strength_of, why_no_point
from lissom.recipes.specs import Recipe
from lissom.recipes.trainers import TEACHER, make_teacher, make_trainer
from lissom.storage import save_events
from lissom.training import Task, Teacher, evaluate, usable_device
from lissom.training.evaluation import evaluate_all

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
    def data(self) -> Dataset | Loaders:
        """With the same examples held out for all seeds.

        Raises:
            RecipeError: for data of which none are held out.
        """
        made = make_data(self.recipe, self.data_dir, seed=DATA_SEED)
        self.check_data(made)
        return made

    @cached_property
    def task(self) -> Task:
        """What the points are trained for and judged by."""
        return make_task(self.recipe)

    @cached_property
    def shape(self) -> Any:
        """Of what the network is called with."""
        return shape_of(self.data, self.task)

    def check(self, from_scratch: Sequence[float] = ()) -> None:
        """Refuse what cannot be trained, before there are files of it, or points that fail.

        Raises:
            RecipeError: for a strength that the recipe cannot have.
            RunError: for a device that cannot be used.
            LissomError: for a runtime that is not installed.
        """
        if isinstance(runtime := path_of(self.recipe).latency, str):
            runtime_named(runtime)
        for strength in from_scratch:
            if reason := why_no_point(self.recipe, strength):
                raise RecipeError(f"a point from scratch: {reason}")
        usable_device(self.device)

    def check_data(self, data: Dataset | Loaders) -> None:
        """Refuse data that points cannot be chosen by.

        Raises:
            RecipeError: if no examples are held out.
        """
        if (data.valid_y if isinstance(data, Dataset) else data.valid) is None:
            raise RecipeError(
                f"points of a path are chosen by held-out examples, and {data!r} has none: set "
                "data.validation, or give a valid part"
            )

    def run(
        self,
        jobs: int = 1,
        from_scratch: Sequence[float] = (),
        *,
        executor: Executors | None = None,
        retry_failed: bool = False,
        progress: Listener | Literal[False] | None = None,
    ) -> Curve:
        """Make the curve, or go on with it.

        Args:
            jobs: processes, for seeds side by side.
            from_scratch: strengths that are trained from untrained networks too, for the dense
                one's epochs.
            executor: as for `lissom.path`, instead of jobs.
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
            example_inputs=make_example(self.make_model(0), self.shape),
            points=spec.points,
            seeds=spec.seeds,
            from_scratch=from_scratch,
            cuts=self.recipe.method is not None and self.recipe.method.type.cuts,
            strength_name=strength_of(self.recipe).label,
            error_name=self.task.error_name,
            error_unit=self.task.error_unit,
            round_to=spec.round_to,
            inputs=spec.inputs,
            latency=spec.latency,
            out=self.out,
            jobs=jobs,
            executor=executor,
            retry_failed=retry_failed,
            progress=progress,
        )

    def make_model(self, seed: int) -> nn.Module:
        """The untrained network of a seed."""
        return make_model(self.recipe, self.shape, self.data.classes, seed=seed)

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
        method, fine_tune = trainer.method, path_of(self.recipe).fine_tune
        if method is not None:
            method.warm_start(None if start.state is None else start.state["optimizer"])
        cut = method is not None and method.cuts and not untrained
        if cut and not fine_tune:
            trainer.deliver()
            if start.folder is not None:  # as training would leave there
                found = evaluate_all(net, self.data, 0, self.task)
                save_events([found.to_dict()], start.folder / "events.jsonl")
        else:
            if start.folder is not None and (start.folder / "checkpoint.pt").exists():
                trainer.resume()
            elif method is not None and cut:
                method.finalize()
            trainer.fit()
        state = {"strength": strength, "optimizer": trainer.optimizer.state_dict()}
        if method is not None and method.cuts and strength is None:
            state[ORDER] = method.order()
        net.cpu()
        return state

    def error(self, net: nn.Module) -> float:
        """On the held-out examples."""
        return evaluate(net, self.data, self.task, "valid").error

    def test(self, net: nn.Module) -> float:
        """On the test examples."""
        return evaluate(net, self.data, self.task, "test").error

    def _teacher(self, seed: int) -> Teacher | None:
        """One for all points of a seed."""
        spec = self.recipe.teacher
        if spec is None:
            return None
        if seed not in self._teachers:
            folder = self.out / f"{TEACHER}-seed{seed}"
            self._teachers[seed] = make_teacher(
                spec,
                self.data,
                seed=seed,
                device=self.device,
                out=folder,
                anew=self.recipe.train.augment is not None,
            )
        return self._teachers[seed]

    def __getstate__(self) -> dict[str, Any]:
        """Without the data and teachers, which another process reads anew."""
        read = ("data", "task", "shape")
        state = {k: v for k, v in self.__dict__.items() if k not in read}
        return {**state, "_teachers": {}}

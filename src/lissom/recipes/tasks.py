"""[task]: what the network is for: its loss, and what it is judged by."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from lissom.errors import RecipeError
from lissom.importing import called_with, imported_function
from lissom.recipes.strict import OpenSpec, Spec, refusals
from lissom.training import Score, Task

TARGETS = {"cross_entropy": "labels", "mse": "numbers", "bce_with_logits": "numbers"}


class ScoreSpec(OpenSpec):
    """score = { make = "torchmetrics.classification:MulticlassF1Score", num_classes = 5 }.

    A class is called with the other keys. A function (outputs, targets) is told by `best` and
    `larger_is_better` which way is up.
    """

    make: str
    name: str | None = None
    best: float | None = None
    larger_is_better: bool | None = None

    def score(self) -> Any:
        """What `Task` takes.

        Raises:
            RecipeError: for what cannot be imported or made.
        """
        made: Any = imported_function(self.make, what="score", error=RecipeError, field="make")
        arguments = self.arguments
        if isinstance(made, type):
            made = called_with(made, arguments, who=f"score {self.make!r}", error=RecipeError)
        elif arguments:
            what = (
                f"score {self.make!r} is no class, and so has no argument {next(iter(arguments))!r}"
            )
            raise RecipeError(what, field=next(iter(arguments)))
        if self.name is None and self.best is None and self.larger_is_better is None:
            return made
        return Score(made, self.name, self.best, bool(self.larger_is_better))


class TaskSpec(Spec):
    """[task]: `loss` and `score` by name or import path, and the rest of `lissom.training.Task`."""

    loss: str = "cross_entropy"
    score: ScoreSpec | None = None
    weight: list[float] | None = None
    label_smoothing: float = 0.0
    forward: str | None = None
    name: str | None = None
    unit: str | None = None

    def make(self) -> Task:
        """The task that is described.

        Raises:
            LissomError: for what cannot be imported, or is not possible.
        """
        return Task(
            self._named(self.loss, "loss") if ":" in self.loss else self.loss,
            None if self.score is None else self.score.score(),
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            forward=None if self.forward is None else self._named(self.forward, "forward"),
            name=self.name,
            unit=self.unit,
        )

    @property
    def targets(self) -> Any:
        """Which targets the loss needs, "labels" or "numbers"; None where it is not known."""
        return TARGETS.get(self.loss)

    @staticmethod
    def _named(path: str, what: str) -> Any:
        return imported_function(path, what=what, error=RecipeError, field=what)

    @model_validator(mode="before")
    @classmethod
    def _score_by_name(cls, given: Any) -> Any:
        """score = "my.scores:f1" is short for a table."""
        if isinstance(given, Mapping) and isinstance(given.get("score"), str):
            return {**given, "score": {"make": given["score"]}}
        return given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        with refusals():
            self.make()
        return self

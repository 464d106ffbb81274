"""What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere."""

from types import TracebackType
from typing import Any, Self

from rich import progress as bars
from rich.console import Console

from lissom.recipes import Recipe, make_task
from lissom.training import Evaluation, Task


class Progress:
    """Shows a trainer's reports: loss, error on held-out data, and the weights that are left.

    Args:
        console: where to show it; a bar if it is a terminal, about ten lines if it is not.
        recipe: what is trained, for its title and its number of epochs.
    """

    def __init__(self, console: Console, recipe: Recipe) -> None:
        self._console = console
        self._epochs, self._of = recipe.train.epochs, make_task(recipe)
        self._next_line: dict[str, int] = {}
        self._bar = bars.Progress(
            bars.BarColumn(bar_width=30),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=self._epochs)
        self._loss, self._standing = "", ""
        console.print(recipe.title)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def report(self, event: dict[str, Any]) -> None:
        """Take one report of a `Trainer`, or of its teacher's."""
        who, epochs = ("teacher  ", event["teacher"]) if "teacher" in event else ("", self._epochs)
        if event["event"] == "progress":
            done = event["epoch"] + event["step"] / event["steps"]
            self._loss = f"{who}epoch {event['epoch'] + 1}/{epochs}  loss {event['loss']:.4f}"
        else:
            done = event["epoch"]
            self._standing = standing(Evaluation.from_dict(event), self._of)
        line = f"{self._loss}  {self._standing}"
        self._bar.update(self._task, completed=done, total=epochs, description=line)
        if event["event"] != "progress" and not self._console.is_terminal:
            self._print_line(who, event["epoch"], epochs)

    def _print_line(self, who: str, epoch: int, epochs: int) -> None:
        if epoch >= self._next_line.get(who, 0) or epoch == epochs:
            line = f"{who}epoch {epoch:4d}/{epochs}  {self._standing}"
            self._console.print(line, soft_wrap=True)
            self._next_line[who] = epoch + max(1, epochs // 10)


def standing(found: Evaluation, task: Task) -> str:
    """One line about an evaluation: loss, error, non-zeros, and how the method stands."""
    name, part = ("test", found.test) if found.valid is None else ("valid", found.valid)
    total = found.nonzeros["total"]
    summary = found.more.get("method", {}).get("summary", "")
    return (
        f"{name} loss {part.loss:.4f}  {judged(part.error, task)}  "
        f"non-zeros {total.nonzeros:,} of {total.weights:,}{summary and f'  {summary}'}"
    )


def judged(error: float, task: Task) -> str:
    """An error by its name, in its unit: "error 2.31 %", "RMSE 0.42 °C"."""
    in_percent = task.error_unit == "fraction"
    told = f"{100 * error:.2f} %" if in_percent else f"{error:.4g} {task.error_unit}".rstrip()
    return f"{task.error_name} {told}"

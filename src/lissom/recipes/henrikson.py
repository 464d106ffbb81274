"""log = "henrikson": a run's evaluations once more, under the names of Henrikson's own records."""

from pathlib import Path
from typing import Any

from lissom.storage import append_line, read_events, save_lines
from lissom.training import Evaluation

FILE = "henrikson.jsonl"


def henriksons(found: Evaluation) -> dict[str, Any]:
    """An evaluation as his article has it: entropy, inaccuracy, and `numNz` of `num` weights.

    Source: J. Henrikson, *Building Sparse Models for Deep Learning Using L1 Regularization*, 2021.
    """
    parts = {"train": found.train, "test": found.test, "valid": found.valid}
    line: dict[str, Any] = {"event": "measure_test", "epochAfter": found.epoch}
    for name, part in parts.items():
        if part is not None:
            line |= {f"ent_{name}": part.loss, f"inacc_{name}": part.error}
    counts = found.nonzeros.items()
    line["num_nonzero"] = {name: {"num": c.weights, "numNz": c.nonzeros} for name, c in counts}
    return line


class HenriksonLog:
    """Writes henrikson.jsonl, a line for each line of events.jsonl.

    Args:
        run: the directory of both.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def begin(self, epoch: int) -> None:
        """Have the lines of a run's first epochs, and no others, whatever a kill has left.

        Args:
            epoch: how many epochs are done, 0 for a new run.
        """
        events = read_events(self._run / "events.jsonl") if epoch else []
        known = [Evaluation.from_dict(event) for event in events if event["epoch"] <= epoch]
        save_lines(map(henriksons, known), self._run / FILE)

    def add(self, event: dict[str, Any]) -> None:
        """Take a trainer's report; those of progress and of a teacher are passed over."""
        if event["event"] == "evaluation" and "teacher" not in event:
            append_line(henriksons(Evaluation.from_dict(event)), self._run / FILE)

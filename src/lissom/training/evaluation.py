"""What an event says: entropy and inaccuracy by part, non-zeros by variable, the state of gates."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.data import Dataset
from lissom.errors import GateError
from lissom.gates import Gates
from lissom.measure import measure
from lissom.running import evaluating


def evaluation(model: nn.Module, data: Dataset) -> dict[str, Any]:
    """Henrikson's fields, for a network without gates."""
    parts = {"train": (data.train_x, data.train_y), "test": (data.test_x, data.test_y)}
    if data.valid_x is not None and data.valid_y is not None:
        parts["valid"] = (data.valid_x, data.valid_y)
    event: dict[str, Any] = {}
    for name, (x, y) in parts.items():
        event[f"ent_{name}"], event[f"inacc_{name}"] = entropy_and_inaccuracy(model, x, y)
    counted = measure(model)
    nonzero = {v.name: {"num": v.weights, "numNz": v.nonzeros} for v in counted.variables}
    nonzero["total"] = {"num": counted.weights, "numNz": counted.nonzeros}
    return {**event, "num_nonzero": nonzero}


@torch.no_grad()
def gates_event(gates: Gates) -> dict[str, Any]:
    """Expected costs, gates that are open in expectation and at test time, and multipliers."""
    expected = {"weights": float(gates.expected("weights"))}
    with suppress(GateError):  # made without an example
        expected["macs"] = float(gates.expected("macs"))
    names = [block.name for block in gates.blocks]
    chances, at_test = gates.p_nonzero(), gates.test_gates()
    return {
        "expected": expected,
        "open": {name: float(p.sum()) for name, p in zip(names, chances, strict=True)},
        "left": {name: int(z.count_nonzero()) for name, z in zip(names, at_test, strict=True)},
        "multipliers": {one.cost: float(one.multiplier) for one in gates.constraints},
    }


@torch.no_grad()
def entropy_and_inaccuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 2000
) -> tuple[float, float]:
    """Mean cross-entropy in nats and the part of wrong answers, in evaluation mode."""
    logits = logits_of(model, x, batch_size)
    entropy, wrong = 0.0, 0
    for part, labels in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        entropy += float(F.cross_entropy(part, labels, reduction="sum"))
        wrong += int((part.argmax(1) != labels).sum())
    return entropy / len(y), wrong / len(y)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int = 2000) -> Tensor:
    """What a model answers to x in evaluation mode, [n, classes] in float32."""
    with evaluating(model):
        return torch.cat([model(inputs).float() for inputs in x.split(batch_size)])

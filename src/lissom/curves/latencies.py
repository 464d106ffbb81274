"""How long the networks of a curve take, measured so that they can be compared."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from lissom.curves.point import Point
from lissom.curves.running import MakeModel, build
from lissom.curves.storing import load_latencies, name_of, save_latencies, small_in
from lissom.curves.telling import Telling
from lissom.measuring import latency
from lissom.running import ExampleInputs, as_inputs
from lissom.saving import load


def time_networks(
    points: Sequence[Point],
    example_inputs: ExampleInputs,
    make_model: MakeModel,
    out: Path,
    telling: Telling,
    runtime: str,
) -> None:
    """Let the shrunk networks of all points take turns in a runtime, unless that was done already.

    Points are made hours apart, and a machine is not always as fast; so all are timed together,
    and once more where points were added. Ratios are to the first point's network, a dense one.
    """
    worked = [point for point in points if not point.failed]
    before = load_latencies(out)
    same = all(one.runtime == runtime for one in before.values())
    if same and before.keys() == {name_of(point) for point in worked}:
        return
    telling.tell("latency")
    device = as_inputs(example_inputs).tensors[0].device
    networks: dict[str, nn.Module] = {}
    for point in worked:
        large = partial(build, make_model, point.seed)
        networks[name_of(point)] = load(small_in(point.folder), large).to(device)
    save_latencies(latency(networks, example_inputs, runtime=runtime), out)

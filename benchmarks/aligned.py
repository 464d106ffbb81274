"""Is a network that was trained to widths of 16 channels as fast as its multiply–accumulates say?

    python benchmarks/aligned.py [--data mnist] [--data-dir DIR] [--rounds 25] [--busy]

DS-CNN and a VGG of half width are trained for a few epochs under `TopK` of their channels, once
with the widths that come of it and once with `multiple_of=16`, fine-tuned when the zeros stay,
shrunk, and exported without padding. They take turns with the dense network in ONNX Runtime, on
one thread, with batches of 1 and 32. Beside each time, as a ratio to the dense network's, stands
that of multiply–accumulates. Where other work runs on the machine nothing is timed, unless --busy
says so.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer
from latency import session
from provenance import IDLE, REMOVING, TRAINING, Busy, idle, keep, provenance
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import TopK
from lissom.data import load as load_data
from lissom.measuring import latency
from lissom.models import ds_cnn, vgg
from lissom.schedules import cubic

RESULT = Path(__file__).parent / "results" / "aligned.json"
CODE = [
    *TRAINING,
    *REMOVING,
    "src/lissom/measuring",
    "src/lissom/exporting",
    "benchmarks/aligned.py",
]
BOUND = 1.15
BATCHES = (1, 32)
FRACTION, MULTIPLE = 0.5, 16  # of the channels
EPOCHS, RAMP, STAYS = 5, 2, 3  # the ramp's length, and when the zeros stay
BATCH, RATE, SEED = 50, 2e-3, 0
# How each is made, the pixels around its images, and on how many of them it is trained.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "DS-CNN, 64": (ds_cnn, 0, 5_000),
    "VGG, half width": (lambda: vgg(width=0.5, channels=1), 2, 2_000),
}
Images = tuple[Tensor, Tensor]


def main(
    data: str = "mnist",
    data_dir: Path | None = None,
    rounds: int = 25,
    only: str = "",
    busy: Busy = False,
    out: Path = RESULT,
) -> None:
    """Train and time everything, and keep the record."""
    load = idle(busy)
    torch.set_num_threads(2)
    images = load_data(data, data_dir)
    todo = []
    for name, (make, edge, count) in NETWORKS.items():
        if only not in name:
            continue
        train_x, test_x = (F.pad(x, [edge] * 4) for x in (images.train_x[:count], images.test_x))
        train, test = (train_x, images.train_y[:count]), (test_x, images.test_y)
        torch.manual_seed(SEED)
        models, trained = {"dense": make().eval()}, {}
        for multiple_of in (1, MULTIPLE):
            said = f"multiple_of={multiple_of}"
            models[said], trained[said] = smaller(make, train, test, multiple_of)
            print(f"{name}, {said}: {trained[said]}", flush=True)
        todo.append((name, models, trained, test_x[:1]))
    while os.getloadavg()[0] > IDLE and not busy:
        time.sleep(5)  # until what is left of the training is out of the load
    runs = [run for each in todo for run in timed(*each, rounds)]
    record = {
        "command": f"python benchmarks/aligned.py --data {data} --rounds {rounds}",
        "data": images.name,
        "seed": SEED,
        "fraction": FRACTION,
        "bound": BOUND,
        "runs": runs,
        "jobs": 2,  # threads in training
        **provenance(CODE, ("torch", "onnxruntime", "onnx")),
    }
    keep(record, out, load)


def smaller(
    make: Callable[[], nn.Module], train: Images, test: Images, multiple_of: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A network with half of its channels, and what became of it."""
    start = time.perf_counter()
    torch.manual_seed(SEED)
    net, (x, y) = make(), train
    channels = lissom.channels(net, x[:2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    steps = -(-len(y) // BATCH)
    budget = TopK(fraction=cubic(1, FRACTION, steps=RAMP * steps), multiple_of=multiple_of)
    lissom.proximal(optimizer, {channels: budget}, metric="adaptive", finalize_at=STAYS * steps)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
            decay.step()
    small = lissom.shrink(net.eval(), x[:2])
    with torch.no_grad():
        parts = zip(test[0].split(500), test[1].split(500), strict=True)
        wrong = sum(int((small(images).argmax(1) != labels).sum()) for images, labels in parts)
    return small, {
        "widths": [int(norms.count_nonzero()) for norms in channels.norms()],
        "error": wrong / len(test[1]),
        "seconds": time.perf_counter() - start,
    }


def timed(
    name: str,
    models: dict[str, nn.Module],
    trained: dict[str, dict[str, Any]],
    one: Tensor,
    rounds: int,
) -> list[dict[str, Any]]:
    """The networks in turns, for each batch size."""
    ready = {said: session(net, one, 1) for said, net in models.items()}
    macs = {said: lissom.measure(net, one).macs for said, net in models.items()}
    runs = []
    for batch in BATCHES:
        times = latency(ready, torch.randn(batch, *one.shape[1:]), threads=1, rounds=rounds)
        for said, outcome in trained.items():
            ratio, plain = times[said].ratio, macs[said] / macs["dense"]
            runs.append(
                {
                    "network": name,
                    "trained": said,
                    "batch": batch,
                    "macs": plain,
                    "over_macs": ratio / plain,
                    **outcome,
                    **asdict(times[said]),
                }
            )
            print(f"{name}, {said}, batch {batch}: time × {ratio:.3f}, MACs × {plain:.3f}")
    return runs


if __name__ == "__main__":
    typer.run(main)

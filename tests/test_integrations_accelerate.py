"""lissom in a loop of accelerate's: the method is among what it saves and loads."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from integration_cases import (
    ALL,
    EPOCHS,
    MIDDLE,
    PER_EPOCH,
    Net,
    adam,
    equal,
    loader,
    own_loop,
    require_same_zeros,
)

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.exhaustive


def train(name: str, folder: Path, *, resume: bool = False) -> Net:
    """As on the page; a checkpoint is kept in the middle, or gone on from."""
    accelerator = accelerate.Accelerator(cpu=True)
    net = Net()
    opt = adam(net)
    method = ALL[name](opt, net)
    batches = loader()
    net, opt, batches = accelerator.prepare(net, opt, batches)
    accelerator.register_for_checkpointing(method)
    if resume and name == "ended gates":  # whose model has no log α any more
        method.load_state_dict(torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True))
    if resume:
        accelerator.load_state(folder)
    for epoch in range(MIDDLE // PER_EPOCH if resume else 0, EPOCHS):
        if epoch == MIDDLE // PER_EPOCH and not resume:
            accelerator.save_state(folder)
        for x, y in batches:
            accelerator.backward(F.cross_entropy(net(x), y) + method.penalty())
            opt.step()
            opt.zero_grad()
    method.finalize()
    return net


@pytest.mark.parametrize("name", ALL)
def test_zeros_are_those_of_ones_own_loop_and_bits_those_of_no_stop(
    name: str, tmp_path: Path
) -> None:
    whole = train(name, tmp_path)
    require_same_zeros(whole, own_loop(ALL[name]))
    assert equal(train(name, tmp_path, resume=True), whole)

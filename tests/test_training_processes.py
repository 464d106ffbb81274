"""Several processes share each step: they end alike, and as one process does."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from products import exhaustive
from sharded_cases import fork_several, free_port
from torch import Tensor, distributed, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset
from training_cases import BATCH, EXAMPLES, STEPS, Killed, blobs, dense, events_in, kill, trainer

import lissom
from lissom import L0, TopK, Trainer, weights
from lissom.cli import app
from lissom.data import Dataset, Loaders


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def run(name: str, out: Path, world: int, report: Any = None) -> Trainer:
    net = normed() if name in ("patience", "nested") else dense()
    optimizer = Adam(net.parameters(), 0.01)
    data: Dataset | Loaders = blobs(noise=1.5, valid=16)
    options: dict[str, Any] = {"epochs": 4, "batch_size": BATCH}
    method: Any = None
    if name == "gates":  # whose log α leaves the network in the middle of an epoch
        method = lissom.gate(
            optimizer, net, {weights(net): L0(1)}, gate_lr=1, finalize_at=2 * STEPS + 1
        )
    elif name == "nested":  # which makes statistics anew at the end
        method = lissom.nested(
            optimizer, net, {weights(net): TopK(30)}, smallest=0.1, falls=2 * STEPS
        )
    elif name == "loaders":
        x = torch.arange(EXAMPLES).float()[:, None].repeat(1, 4)
        part = TensorDataset(x / EXAMPLES, torch.arange(EXAMPLES) % 3)
        data = Loaders(DataLoader(part, BATCH // world, shuffle=True), DataLoader(part, 32))
    else:
        method = lissom.proximal(optimizer, {weights(net): TopK(30)}, finalize_at=2 * STEPS)
        options |= {"patience": 2, "patience_from": 2} if name == "patience" else {}
        options |= {"accumulate": 2, "clip_norm": 0.5, "batch_size": BATCH // 2}
    return trainer(
        net, data, optimizer=optimizer, method=method, devices=world, out=out / name,
        strategy="ddp" if world > 1 else "auto", report=report, **options,
    )  # fmt: skip


NAMES = ["proximal", "patience", "gates", "nested", "loaders"]


def _as_torchrun(rank: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


def _rank(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    _as_torchrun(rank, port)
    out, found = Path(folder), dict[str, Any]()
    for name in NAMES:
        seen: list[Tensor] = []
        made = run(name, out, 2, lambda event: None if rank == 0 else pytest.fail("told twice"))
        made.model.register_forward_pre_hook(
            lambda m, x, seen=seen: seen.append(x[0]) if m.training else None  # type: ignore[misc]
        )
        event = made.fit()
        found[name] = {"state": made.model.state_dict(), "error": event.test.error, "x": seen}
    again = run("proximal", out / "again", 2)
    again.out = out / "killed"
    distributed.barrier()
    again.resume()
    again.fit()
    found["resumed"] = {"state": again.model.state_dict()}
    torch.save(found, out / f"{rank}.pt")


@exhaustive
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with pytest.raises(Killed):
        run("proximal", tmp_path / "one", 1, kill("evaluation", 2)).fit()
    (tmp_path / "one" / "proximal").rename(tmp_path / "killed")
    fork_several(_rank, (str(tmp_path), free_port()), 2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in (*NAMES, "resumed"):
        for key, tensor in a[name]["state"].items():
            assert torch.equal(tensor, b[name]["state"][key]), (name, key)
    for name in NAMES:
        assert a[name]["error"] == b[name]["error"]
        assert len(events_in(tmp_path / name)) >= 3
    whole = run("proximal", tmp_path / "whole", 1)
    whole.fit()
    for name in ("proximal", "resumed"):
        for key, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(a[name]["state"][key], tensor, atol=1e-4, rtol=1e-3)
    assert not set(a["gates"]["state"]) - set(dense().state_dict())
    assert any(bool((x == 0).any()) for x in a["gates"]["state"].values())
    for epoch in range(4):  # each example once, in an order of its own
        rows = [x["loaders"]["x"][epoch * STEPS : (epoch + 1) * STEPS] for x in (a, b)]
        seen = torch.cat([torch.cat(parts)[:, 0] for parts in rows]) * EXAMPLES
        assert seen.round().sort().values.tolist() == list(range(EXAMPLES))
    assert not torch.equal(torch.cat(a["loaders"]["x"][:STEPS]), torch.cat(rows[0]))


def _words(out: Path) -> list[str]:
    given = ["train", "digits-gates", "--devices", "2", "--strategy", "ddp", "--out", str(out)]
    return [*given, "--set", "train.epochs=6", "--set", "train.evaluate_every=1"]


def _command(rank: int, port: int, words: list[str]) -> None:
    _as_torchrun(rank, port)
    assert not app(words, standalone_mode=False)  # or it gives an exit code


@exhaustive
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_a_command_of_two_processes_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """At last in an interpreter that starts the other one; before, in two as torchrun's are."""
    fork_several(_command, (free_port(), _words(tmp_path / "whole")), 2)
    words, events = _words(tmp_path / "killed"), tmp_path / "killed" / "events.jsonl"
    killed = fork_several(_command, (free_port(), words), 2, join=False).processes
    end = time.monotonic() + 60
    while not (events.exists() and len(events.read_text().splitlines()) >= 2):
        assert time.monotonic() < end and all(process.is_alive() for process in killed)
        time.sleep(0.02)
    for process in killed:
        process.kill()
        process.join()
    resumed = subprocess.run(
        [sys.executable, "-m", "lissom", *words, "--resume"],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert resumed.returncode == 0, resumed.stdout
    assert resumed.stdout.count("kept in") == 1  # the first process speaks for both
    one, two = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("whole", "killed")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

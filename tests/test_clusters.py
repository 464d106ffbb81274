"""A path on clusters that lose workers and nodes: every point there, the same bits as here."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libraries import library
from path_cases import fit, path, same_weights, timeless
from products import exhaustive
from torch import nn
from typer.testing import CliRunner

from lissom.cli import app
from lissom.curves import Curve, Event

pytestmark = [exhaustive, pytest.mark.filterwarnings("ignore")]
STRENGTHS = [1e-3, 2e-3, 5e-3, 1e-2, 0.1, 1.0]


def deadly(folder: Path) -> Callable[..., Any]:
    """A training that kills its worker once."""

    def training(net: nn.Module, strength: float | None, start: Any) -> Any:
        with (folder / "trained").open("a") as log:
            log.write(f"{start.seed} {strength}\n")
        if (start.seed, strength) == (1, 1e-2) and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return fit(net, strength, start)

    return training


def same_as_here(folder: Path, **how: Any) -> int:
    """Make it there and here; how many trainings there were."""
    there = path(STRENGTHS, fit=deadly(folder), seeds=2, out=folder / "curve", **how)
    here = path(STRENGTHS, seeds=2)
    assert (folder / "died").exists()
    assert timeless(there) == timeless(here) and same_weights(there, here)
    again = path(STRENGTHS, fit=deadly(folder), seeds=2, out=folder / "curve")
    assert timeless(again) == timeless(here)
    return len((folder / "trained").read_text().splitlines())


def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = library("ray")
    from ray.cluster_utils import Cluster

    from lissom.integrations.ray import RayExecutor

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ended: list[Event] = []

        def progress(event: Event) -> None:
            if event.kind == "end":
                ended.append(event)
                if len(ended) == 5:
                    cluster.remove_node(nodes[1])

        with RayExecutor(cluster.address) as executor:
            trained = same_as_here(tmp_path, executor=executor, progress=progress)
        assert 15 <= trained <= 17  # one was killed, and a node had at most two
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def dask_cluster() -> Any:
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with library("distributed").LocalCluster(**how) as cluster:
        yield cluster


@pytest.fixture
def dask_executor(dask_cluster: Any) -> Any:
    with dask_cluster.get_client() as client, client.get_executor(retries=3) as executor:
        yield executor


def test_dask(tmp_path: Path, dask_executor: Any) -> None:
    assert same_as_here(tmp_path, executor=dask_executor) >= 15


def test_the_command_on_dask(tmp_path: Path, dask_cluster: Any) -> None:
    changes = ["dense=2", "epochs=2", "fine_tune=1", "strengths=[0.5, 0.1]", "points=3", "seeds=2"]
    short = [part for change in changes for part in ("--set", f"path.{change}")]

    def command(*given: str) -> None:
        made = CliRunner().invoke(app, ["path", "digits-path", *given, *short, "--quiet"])
        assert made.exit_code == 0, made.output

    command("--dask", dask_cluster.scheduler_address, "--out", str(tmp_path / "there"))
    command("--out", str(tmp_path / "here"))
    there, here = (Curve.load(tmp_path / name) for name in ("there", "here"))
    assert timeless(there) == timeless(here) and same_weights(there, here)


def test_a_store_is_all_that_machines_have_in_common(tmp_path: Path, dask_executor: Any) -> None:
    there = path(STRENGTHS[:4], seeds=2, out=f"file://{tmp_path}/curve", executor=dask_executor)
    here = path(STRENGTHS[:4], seeds=2)
    assert timeless(there) == timeless(here) and same_weights(there, here)

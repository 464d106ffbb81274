"""What several processes do with a network that they share, for test_sharded.py to look at."""

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from products import covering
from torch import Tensor, distributed, nn

import lissom
from lissom import L0, L1, L2, L1Ball, Penalty, TopK
from lissom.compressions import Codebook, ScaledTernary
from lissom.groups import Groups

X = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(9) % 3
STEPS = 4

GROUPS: dict[str, Callable[[nn.Module], Groups]] = {
    "weights": lissom.weights,
    "kernels": lissom.kernels,
    "columns": lissom.columns,  # cut by every shard of rows
    "tiles": lambda net: lissom.tiles(net, (2, 5)),
    "channels": lambda net: lissom.channels(net, X),  # of several tensors
}


@dataclass(frozen=True)
class Half(Penalty):
    """A joint penalty of one's own, that says nothing of processes: what is under the mean dies."""

    joint = True
    has_metric = True

    def value(self, norms: Tensor) -> Tensor:
        return norms.sum()

    def prox(self, norms: Tensor, t: Any = 1.0, metric: Tensor | None = None) -> Tensor:
        gain = norms if metric is None else norms * metric.sqrt()
        return torch.where(gain < 0.9 * gain.mean(), 0, norms)


SIZE = {"weights": 0.03, "kernels": 0.3, "columns": 0.1, "tiles": 0.2, "channels": 1.0}  # of norms
PENALTIES: dict[str, Penalty] = {
    "L0": L0(10.0),
    "L1": L1(5.0),
    "TopK": TopK(fraction=0.3),
    "TopK per layer": TopK(fraction=0.3, per="layer"),
    "L1Ball": L1Ball(1.0),
    "sum": TopK(fraction=0.4) + L1(0.01) + L2(0.01),
    "of one's own": Half(),
}
METRICS = ("euclidean", "adaptive")
CASES = covering(GROUPS, PENALTIES, METRICS)
WRAPPERS = ("fsdp", "ddp, method first", "ddp, method last")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False),  # its gradient before a norm is rounding alone
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


def sharded(net: nn.Sequential, mesh: Any) -> nn.Sequential:
    from torch.distributed.fsdp import fully_shard

    for layer in net:
        if list(layer.parameters(recurse=False)):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def optimizer_of(net: nn.Module, metric: str) -> torch.optim.Optimizer:
    # A large ε, since what is near 0 in Adam turns rounding into a sign.
    if metric == "adaptive":
        return torch.optim.Adam(net.parameters(), 0.02, eps=0.01)
    return torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = STEPS) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        optimizer.step()


def trained(case: tuple[str, str, str], wrapper: str | None, mesh: Any) -> list[Tensor]:
    """The parameters at the end, whole."""
    kind, penalty, metric = case
    net: nn.Module = network()
    plain = net
    groups = GROUPS[kind](net)
    if wrapper == "fsdp":
        sharded(plain, mesh)
        groups = groups.of(net)
    if wrapper == "ddp, method last":
        net = nn.parallel.DistributedDataParallel(net)
    optimizer = optimizer_of(plain, metric)
    chosen = {groups: of_size(PENALTIES[penalty], SIZE[kind], metric)}
    method = lissom.proximal(optimizer, chosen, metric=metric)
    if wrapper == "ddp, method first":
        net = nn.parallel.DistributedDataParallel(net)
    steps(net, optimizer)
    method.finalize()
    steps(net, optimizer, 2)
    return [whole(p) for p in plain.parameters()]


def of_size(penalty: Penalty, size: float, metric: str) -> Penalty:
    """With a strength for norms of this size."""
    scale = 0.1 if metric == "adaptive" else 1.0
    if isinstance(penalty, L0):
        return L0(penalty.strength * scale * size**2)  # type: ignore[operator]
    return L1(penalty.strength * scale * size) if isinstance(penalty, L1) else penalty  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def in_processes(
    world: int, work: Callable[[Any, Path], dict[Any, Any]], folder: Path
) -> list[dict[Any, Any]]:
    """What some work gives in each of so many processes; it is called with their device mesh."""
    fork_several(_rank, (world, free_port(), work, folder), world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def fork_several(
    work: Callable[..., None], given: tuple[Any, ...], count: int, join: bool = True
) -> Any:
    """Do some work in so many processes; it is called with the number of its own, and with this.

    They are forks of a process that has imported all that takes longer than what they do then.
    Those that are not joined are the `.processes` of what is returned.
    """
    multiprocessing.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", "lissom"])
    return torch.multiprocessing.start_processes(
        _begun, (work, given), nprocs=count, join=join, start_method="forkserver"
    )


def _begun(rank: int, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    work(rank, *given)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _rank(rank: int, world: int, port: int, work: Any, folder: Path) -> None:
    warnings.simplefilter("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=world)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
    torch.save(work(mesh, folder), folder / f"{rank}.pt")
    distributed.destroy_process_group()


LC = {
    "TopK": TopK(fraction=0.2),
    "kernels": TopK(fraction=0.3),
    "L0": L0(1e-4),
    "Codebook": Codebook(2),
    "Codebook per layer": Codebook(3, per="layer"),
    "ternary": ScaledTernary(),
    "TopK + Codebook": TopK(fraction=0.02) + Codebook(2),
}
LC_CASES = covering(LC, METRICS, ("quadratic", "augmented"), ("given", "found"))
LC_WRAPPERS = ("fsdp", "ddp, method last")


def compressed(case: tuple[str, str, str, str], wrapper: str | None, mesh: Any) -> list[Tensor]:
    """What learning–compression ends with, whole, and its forms as dense tensors."""
    name, metric, algorithm, mu = case
    plain = network()
    net: nn.Module = plain
    groups = lissom.kernels(net) if name == "kernels" else lissom.weights(net)
    if wrapper == "fsdp":
        sharded(plain, mesh)
    if wrapper == "ddp, method last":
        net = nn.parallel.DistributedDataParallel(net)
    optimizer = optimizer_of(plain, metric)
    rate = {"mu": 0.1, "mu_factor": 2.0} if mu == "given" or name == "L0" else {}
    method = lissom.lc(
        optimizer, {groups.of(plain): LC[name]}, every=2, c_steps=3, metric=metric,
        algorithm=algorithm, **rate,
    )  # fmt: skip
    steps(net, optimizer, 5)
    with method.deployed():
        deployed = [whole(p) for p in plain.parameters()]
    method.penalty()
    steps(net, optimizer, 1)
    method.finalize()
    made = method.outcome(plain)
    assert isinstance(made, lissom.compressions.Compressed)
    forms = [form.value() for form in made.forms.values()]
    return [*deployed, *(whole(p) for p in plain.parameters()), *forms]


def compressions(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """All of them under all wrappers."""
    return {(case, w): compressed(case, w, mesh) for case in LC_CASES for w in LC_WRAPPERS}


def by_root(net: nn.Sequential, mesh: Any) -> nn.Sequential:
    """The outermost module holds most of the weights, and keeps them gathered from call to call."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(net[3], mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


Case = Callable[[Callable[[nn.Sequential], Any]], list[Tensor]]


def _in_the_forward_pass(
    wrap: Callable[[nn.Sequential], Any], make: Callable[..., Any], metric: str = "adaptive"
) -> list[Tensor]:
    """Trained by gates, or by a penalty in the loss; looked at in between, and after the end."""
    net = network()
    groups = [lissom.channels(net, X), lissom.neurons(net, X)]
    wrap(net)
    optimizer = optimizer_of(net, metric)
    method = make(optimizer, net, [chosen.of(net) for chosen in groups])
    found = []
    for _ in range(3):
        with method.deployed():
            found.append(net.eval()(X).detach())
        found.append(net(X).detach())  # the mean gates, if there are any
        net.train()
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(X), Y) + method.penalty()
            loss.backward()
            optimizer.step()
    method.finalize()
    found.append(net.eval()(X).detach())
    steps(net.train(), optimizer, 2)
    return [*found, *(whole(p) for p in net.parameters())]


def _gates(penalty: Penalty, **options: Any) -> Case:
    return lambda wrap: _in_the_forward_pass(
        wrap,
        lambda opt, net, groups: lissom.gate(
            opt, net, {one: penalty for one in groups}, seed=3, init=0.3, gate_lr=0.5, **options
        ),
    )


def _subgradient(kind: Callable[[nn.Module], Groups], penalty: Any) -> Case:
    return lambda wrap: _in_the_forward_pass(
        wrap,
        lambda opt, net, groups: lissom.subgradient(
            opt, {(chosen := kind(net)): penalty(chosen) if callable(penalty) else penalty}
        ),
        "euclidean",
    )


FORWARD: dict[str, Case] = {
    "gates": _gates(L0(0.01)),
    "gates with L2": _gates(L0(0.01) + L2(0.01)),
    "gates with a budget": _gates(L0(0.0), budget=lissom.Budget(weights=0.4)),
    "subgradient": _subgradient(lissom.weights, L1(0.01)),
    "subgradient of kernels": _subgradient(lissom.kernels, L1(0.01) + L2(0.01)),
    "subgradient of columns": _subgradient(lissom.columns, L1(0.01)),
    "subgradient with numbers": _subgradient(
        lissom.weights, lambda groups: L1([0.01 * torch.ones(b.shape) for b in groups])
    ),
    "proximal": lambda wrap: _in_the_forward_pass(
        wrap,
        lambda opt, net, groups: lissom.proximal(
            opt, {lissom.weights(net): TopK(fraction=0.3)}, metric="adaptive"
        ),
    ),
}


def on_shares(wrap: Callable[[nn.Module], Any], rank: int, world: int) -> list[Tensor]:
    """Gates of a network of which each process sees other examples; the last is log α."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(8, 12)
    y = torch.arange(8) % 3
    groups = lissom.neurons(net, x)
    wrap(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    method = lissom.gate(optimizer, net, {groups.of(net): L0(0.01)}, seed=3, gate_lr=1.0)
    for _ in range(4):
        optimizer.zero_grad()
        logits = net(x[rank::world])
        (nn.functional.cross_entropy(logits, y[rank::world]) + method.penalty()).backward()
        optimizer.step()
    log_alpha = method.log_alpha.detach().clone()
    method.finalize()
    return [*(whole(p) for p in net.parameters()), log_alpha]


def shares(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    from torch.distributed.fsdp import fully_shard

    return {
        "gates": on_shares(
            lambda net: fully_shard(net, mesh=mesh), mesh.get_local_rank(), mesh.size()
        )
    }


def forwards(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """All of them, every layer sharded by itself and most of them with the outermost module."""
    wraps = {"layers": sharded, "root": by_root}
    return {
        (name, how): case(lambda net, wrap=wrap: wrap(net, mesh))  # type: ignore[misc]
        for name, case in FORWARD.items()
        for how, wrap in wraps.items()
    }


def products(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """All cases under all wrappers."""
    return {(case, w): trained(case, w, mesh) for case in CASES for w in wrappers(mesh.size())}


def wrappers(world: int) -> tuple[str, ...]:
    """With ddp two processes say all, since each has all weights."""
    return WRAPPERS if world == 2 else WRAPPERS[:1]


def at_rest(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """What no gradient is needed for: equal weights, half precision, numbers for each group."""
    return {name: case(lambda net: sharded(net, mesh)) for name, case in AT_REST.items()}


Wrap = Callable[[nn.Sequential], nn.Module]


def _applied(
    wrap: Wrap, kind: str, penalty: Any, change: Callable[[nn.Module], Any] = lambda net: None
) -> list[Tensor]:
    net = network()
    change(net)
    groups = GROUPS[kind](net) if kind in GROUPS else lissom.blocks(net, 4)
    if not isinstance(penalty, Penalty):
        penalty = penalty(groups)
    wrap(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    lissom.proximal(optimizer, {groups.of(net): penalty}).apply()
    return [whole(p) for p in net.parameters()]


@torch.no_grad()
def rounded(net: nn.Module) -> None:
    for p in net.parameters():
        p.copy_((p * 20).round() / 20)


def tensors_of_l0(groups: Groups) -> Penalty:
    return L0([0.3 * norms.detach() for norms in groups.norms()])


AT_REST: dict[str, Callable[[Wrap], list[Tensor]]] = {
    "ties": lambda wrap: _applied(wrap, "weights", TopK(fraction=0.3), rounded),
    "ties per layer": lambda wrap: _applied(wrap, "weights", TopK(51, per="layer"), rounded),
    "ties of kernels": lambda wrap: _applied(wrap, "kernels", TopK(7), rounded),
    "more than there are": lambda wrap: _applied(wrap, "weights", TopK(10**6), rounded),
    "mostly zeros": lambda wrap: _applied(wrap, "weights", TopK(fraction=0.9), rounded),
    "one": lambda wrap: _applied(wrap, "weights", TopK(1)),
    "none": lambda wrap: _applied(wrap, "weights", TopK(0)),
    "bfloat16": lambda wrap: _applied(
        wrap, "weights", TopK(fraction=0.3), lambda net: net.bfloat16()
    ),
    "float64": lambda wrap: _applied(wrap, "weights", TopK(fraction=0.3), lambda net: net.double()),
    "numbers for each": lambda wrap: _applied(wrap, "weights", tensors_of_l0),
    "numbers for each kernel": lambda wrap: _applied(wrap, "kernels", tensors_of_l0),
    "2:4": lambda wrap: _applied(wrap, "blocks", TopK(2, per="block")),
    "widths": lambda wrap: _applied(wrap, "channels", TopK(fraction=0.5, multiple_of=2)),
    "nonnegative": lambda wrap: _applied(wrap, "weights", TopK(90) + lissom.NonNegative()),
}


class Words(nn.Module):
    """A table of which some rows are never looked up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(11, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        found: Tensor = self.out(self.table(words).mean(1))
        return found


def words(wrap: Callable[[nn.Module], Any], penalty: Penalty, columns: bool) -> list[Tensor]:
    net = Words()
    numbers = {"table.weight": torch.arange(4), "out.weight": torch.arange(4)}
    groups = lissom.partition(net, numbers) if columns else lissom.weights(net)
    wrap(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    method = lissom.proximal(optimizer, {groups.of(net): penalty})
    for step in range(4):  # rows 0 to 2, then 3 as well; 9 and 10 never
        looked_up = torch.arange(8).view(4, 2) % (3 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(looked_up), torch.arange(4) % 3).backward()
        optimizer.step()
    method.finalize()
    return [whole(p) for p in net.parameters()]


WORDS = {
    "L0": (L0(2.0), False),
    "TopK": (TopK(fraction=0.5), False),
    "TopK per layer": (TopK(fraction=0.5, per="layer"), False),
    "columns": (TopK(2), True),
}


def tables(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    from torch.distributed.fsdp import fully_shard

    return {
        name: words(lambda net: fully_shard(net, mesh=mesh), *case) for name, case in WORDS.items()
    }


def planned(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """Tensor parallelism, alone and with fully_shard in two dims; replicas with shards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    two = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}

    def tensor_parallel(net: nn.Module) -> None:
        parallelize_module(net, two["tensor"], plan)

    def both(net: nn.Module) -> None:
        tensor_parallel(net)
        fully_shard(net, mesh=two["data"])

    def hybrid(net: nn.Module) -> None:
        fully_shard(net, mesh=two)

    wraps = {"tensor": tensor_parallel, "both": both, "hybrid": hybrid}
    return {
        (name, *case): dense(wrap, *case) for name, wrap in wraps.items() for case in DENSE_CASES
    }


DENSE_CASES = list(product(("weights", "columns", "tiles"), ("L0", "L1Ball", "TopK", "sum")))


def dense(wrap: Callable[[nn.Module], Any], kind: str, penalty: str) -> list[Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))
    groups = GROUPS[kind](net)
    wrap(net)
    optimizer = torch.optim.Adam(net.parameters(), 0.02, eps=0.01)
    chosen = {groups.of(net): of_size(PENALTIES[penalty], SIZE[kind], "adaptive")}
    lissom.proximal(optimizer, chosen, metric="adaptive")
    x = X.flatten(1)[:, :12]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), Y).backward()
        optimizer.step()
    return [whole(p) for p in net.parameters()]


def method_on(mesh: Any) -> tuple[nn.Sequential, torch.optim.Optimizer, lissom.methods.Method]:
    net = network()
    groups = lissom.weights(net)
    sharded(net, mesh)
    optimizer = optimizer_of(net, "adaptive")
    budget = TopK(fraction=lissom.schedules.cubic(1.0, 0.1, steps=6))
    method = lissom.proximal(optimizer, {groups.of(net): budget}, metric="adaptive")
    return net, optimizer, method


def states(net: nn.Module, optimizer: torch.optim.Optimizer, method: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import (
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    return {
        "model": get_model_state_dict(net),
        "optimizer": get_optimizer_state_dict(net, optimizer),
        "method": method.state_dict(),
    }


def saving(mesh: Any, folder: Path, done: int = 3) -> dict[Any, Any]:
    """Trained, saved, and trained on."""
    import torch.distributed.checkpoint as dcp

    net, optimizer, method = method_on(mesh)
    steps(net, optimizer, 3)
    with method.deployed():
        deployed = [whole(p) for p in net.parameters()]
        answer = net.eval()(X).detach()
    net.train()
    before = [whole(p) for p in net.parameters()]
    dcp.save(states(net, optimizer, method), checkpoint_id=folder / "checkpoint")
    after = [whole(p) for p in net.parameters()]
    steps(net, optimizer, 3)
    method.finalize()
    ended = [whole(p) for p in net.parameters()]
    dcp.save(states(net, optimizer, method), checkpoint_id=folder / "ended")
    steps(net, optimizer, 2)
    last = [whole(p) for p in net.parameters()]
    return {
        "deployed": deployed, "answer": answer, "before": before, "after": after,
        "ended": ended, "last": last,
    }  # fmt: skip


def load(net: nn.Module, optimizer: torch.optim.Optimizer, method: Any, kept: Path) -> None:
    """What `states` gave, and was saved."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    state = states(net, optimizer, method)
    dcp.load(state, checkpoint_id=kept)
    method.load_state_dict(state["method"])
    set_model_state_dict(net, state["model"])
    set_optimizer_state_dict(net, optimizer, state["optimizer"])


def loading(mesh: Any, folder: Path) -> dict[Any, Any]:
    """Trained on from what `saving` kept, in as many processes or others."""
    found = {}
    for kept, count in (("checkpoint", 3), ("ended", 2)):
        net, optimizer, method = method_on(mesh)
        load(net, optimizer, method, folder / kept)
        steps(net, optimizer, count)
        method.finalize()
        found[f"from {kept}"] = [whole(p) for p in net.parameters()], method.step
    return found


def saving_and_loading(mesh: Any, folder: Path) -> dict[Any, Any]:
    found = saving(mesh, folder)
    distributed.barrier()
    return found | loading(mesh, folder)


def saving_others(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    """LC, also before its first L step, and gates: trained on, and on from what was kept."""
    import torch.distributed.checkpoint as dcp

    def made(name: str) -> Any:
        net = network()
        groups = lissom.channels(net, X)
        sharded(net, mesh)
        optimizer = optimizer_of(net, "adaptive")
        if name == "gates":
            return net, optimizer, lissom.gate(optimizer, net, {groups.of(net): L0(0.01)}, seed=1)
        chosen = {lissom.weights(net): TopK(fraction=0.1) + Codebook(2)}
        options = {"every": 2, "c_steps": 4, "metric": "adaptive"}
        if name == "lc, not begun":
            options |= {"start": 4, "mu": 1.0, "mu_factor": 1.1}
        return net, optimizer, lissom.lc(optimizer, chosen, **options)

    found = {}
    for name in ("lc", "lc, not begun", "gates"):
        net, optimizer, method = made(name)
        steps(net, optimizer, 3)
        dcp.save(states(net, optimizer, method), checkpoint_id=folder / name)
        steps(net, optimizer, 3)
        method.finalize()
        found[name, "on"] = [whole(p) for p in net.parameters()]
        net, optimizer, method = made(name)
        load(net, optimizer, method, folder / name)
        steps(net, optimizer, 3)
        method.finalize()
        found[name, "loaded"] = [whole(p) for p in net.parameters()]
    return found


def refused(mesh: Any, folder: Path) -> dict[Any, Any]:
    """What says no, and what counts, on a sharded model."""
    net = sharded(network(), mesh)
    opt = optimizer_of(net, "euclidean")
    parallel = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    neurons = lissom.neurons(parallel, torch.randn(2, 4))
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(parallel, mesh, {"0": ColwiseParallel(), "2": ColwiseParallel()})
    tp = torch.optim.SGD(parallel.parameters(), 0.1)

    def gated_in_parallel() -> None:
        lissom.gate(tp, parallel, {neurons.of(parallel): L0(0.1)})
        parallel(torch.randn(2, 4))

    weights = lissom.weights(net)
    calls: dict[str, Callable[[], Any]] = {
        "shrink": lambda: lissom.shrink(net, X),
        "export": lambda: lissom.export(net, X, folder / "net.onnx"),
        "channels": lambda: lissom.channels(net, X),
        "nested": lambda: lissom.nested(opt, net, {weights: TopK(30)}, smallest=0.1, falls=5),
        "gate": lambda: lissom.gate(opt, net, {weights: L0(0.1)}),
        "low rank": lambda: lissom.lc(
            opt, {weights: lissom.compressions.LowRank(1)}, every=2, c_steps=2, mu=0.1
        ),
        "of": lambda: weights.of(nn.Linear(3, 3)),
        "tensor parallel": gated_in_parallel,
        "measure": lambda: lissom.measure(net).weights,
    }
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    whole_net = network()
    zero = ZeroRedundancyOptimizer(whole_net.parameters(), torch.optim.Adam, lr=0.01)
    first = network()
    flat = lissom.weights(first)
    FullyShardedDataParallel(first, device_id=torch.device("cpu"), use_orig_params=True)
    calls |= {
        "adaptive ZeRO": lambda: lissom.proximal(
            zero, {lissom.weights(whole_net): L0(0.1)}, metric="adaptive"
        ),
        "FSDP1": lambda: lissom.proximal(torch.optim.Adam(first.parameters()), {flat: TopK(30)}),
    }
    told = {}
    for name, call in calls.items():
        try:
            told[name] = call()
        except lissom.LissomError as error:
            told[name] = str(error)
    return told


def with_zero(shared: bool) -> list[Tensor]:
    """Under an optimizer of which each process has a part of the state."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = network()
    optimizer: torch.optim.Optimizer = optimizer_of(net, "adaptive")
    model: nn.Module = net
    if shared:
        model = nn.parallel.DistributedDataParallel(net)
        kind = torch.optim.Adam
        optimizer = ZeroRedundancyOptimizer(net.parameters(), kind, lr=0.02, eps=0.01)
    method = lissom.proximal(optimizer, {lissom.weights(net): TopK(fraction=0.3)})
    steps(model, optimizer)
    method.finalize()
    steps(model, optimizer, 2)
    return [whole(p) for p in net.parameters()]


def zero(mesh: Any, folder: Path) -> dict[Any, list[Tensor]]:
    return {"zero": with_zero(True)}

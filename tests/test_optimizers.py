"""The optimizer that really steps, what changes around it, and steps that are none or compiled."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fifth_method import Rewinding, RewindingOptions
from products import exhaustive, few, pairwise
from proximal_cases import each, equal
from sharded_cases import fork_several
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

import lissom
from lissom import L0, L1, TopK
from lissom.errors import GateError, LissomError, MethodError, OptimizerError
from lissom.methods import Method, methods_on
from lissom.methods.optimizers import stepping_optimizer

Make = Callable[[Any, nn.Module], Method]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def top(metric: str, fused: bool = True) -> Make:
    def make(opt: Any, net: nn.Module) -> Method:
        penalties = {lissom.weights(net): TopK(50)}
        return lissom.proximal(opt, penalties, metric=metric, fused=fused)

    return make


METHODS: dict[str, Make] = {
    "euclidean": top("euclidean"),
    "adaptive": top("adaptive"),
    "every": lambda o, n: lissom.proximal(o, {lissom.weights(n): L1(0.1)}, every=2, start=1),
    "reference": top("adaptive", fused=False),
    "units": lambda o, n: lissom.proximal(o, {lissom.neurons(n, torch.rand(2, 8)): L0(1e-3)}),
    "lc": lambda o, n: lissom.lc(o, {lissom.weights(n): TopK(50)}, every=2, restart=True),
    "lc adaptive": lambda o, n: lissom.lc(
        o, {lissom.weights(n): TopK(50)}, every=2, metric="adaptive", mu=0.1
    ),
    "gates": lambda o, n: lissom.gate(o, n, {lissom.weights(n): L0(1e-3)}, seed=0),
    "nested": lambda o, n: lissom.nested(
        o, n, {lissom.weights(n): TopK(fraction=0.5)}, smallest=0.3, metric="euclidean"
    ),
    "subgradient": lambda o, n: lissom.subgradient(o, {lissom.weights(n): L1(0.1)}),
    "a user's own": lambda o, n: Rewinding(
        o, {lissom.weights(n): TopK(fraction=0.5)}, RewindingOptions(every=2)
    ),
}
QUICK = ("euclidean", "adaptive", "every", "lc", "gates", "subgradient", "a user's own")
every_method = pytest.mark.parametrize(
    "make", few(METHODS.values(), keep=[METHODS[name] for name in QUICK]), ids=METHODS
)


def train(net: nn.Module, opt: Any, method: Method | None, steps: range, step: Any = None) -> None:
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        y = torch.randint(3, (16,), generator=generator)
        x = torch.randn(16, 8, generator=generator) + y[:, None]
        opt.zero_grad()
        term = 0 if method is None else method.penalty()
        (F.cross_entropy(net.train()(x), y) + term).backward()
        (step or opt.step)()


def bits(*parts: Any) -> bytes:
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    return file.getvalue()


# The optimizer that really steps.


class Outer:
    """As frameworks wrap optimizers: under a name of their own."""

    def __init__(self, inner: Optimizer, name: str, held: Any = None) -> None:
        setattr(self, name, held or inner)
        self.step, self.zero_grad = inner.step, inner.zero_grad


class OuterOptimizer(Optimizer):
    """The same as a subclass that calls no `super().__init__`, as accelerate's and opacus' do."""

    def __init__(self, inner: Optimizer) -> None:
        self.original_optimizer = inner

    def step(self, closure: Any = None) -> Any:
        return self.original_optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.original_optimizer.zero_grad(set_to_none)


class Chained(Optimizer):
    """Steps several of its parts one after the other, and has hooks of its own."""

    def __init__(self, parts: list[Optimizer]) -> None:
        super().__init__(
            [p for o in parts for g in o.param_groups for p in g["params"]], {"lr": 0.05}
        )
        self.parts = parts

    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step()


WRAPPERS: dict[str, Callable[[Optimizer], Any]] = {
    "any name": lambda opt: Outer(opt, "wrapped"),
    "in a list": lambda opt: Outer(opt, "optimizers", [opt]),
    "in a dict": lambda opt: Outer(opt, "optimizers", {"main": opt}),
    "no init": OuterOptimizer,
    "both": lambda opt: Outer(OuterOptimizer(opt), "_optimizer"),
}


@each("wrap", WRAPPERS)
@pytest.mark.parametrize("make", [METHODS["adaptive"], METHODS["gates"]])
def test_wrappers_are_known_by_what_they_hold(make: Make, wrap: Callable[..., Any]) -> None:
    nets = []
    for wrapped in (False, True):
        net = network()
        opt = Adam(net.parameters(), 0.01)
        given = wrap(opt) if wrapped else opt
        method = make(given, net)
        assert method.optimizer is opt and methods_on(given) == [method]
        train(net, given, method, range(3))
        assert method.step == 3
        nets.append(net)
    assert equal(*nets)


def test_accelerate_is_looked_through() -> None:
    accelerate = pytest.importorskip("accelerate")
    for make in (METHODS["adaptive"], METHODS["lc adaptive"], METHODS["gates"]):
        accelerator = accelerate.Accelerator(cpu=True)
        net = network()
        opt = Adam(net.parameters(), 0.01)
        net, prepared = accelerator.prepare(net, opt)
        method = make(prepared, net)
        scheduler = accelerator.prepare(LambdaLR(opt, lambda n: 1.0))
        for _ in range(3):
            prepared.zero_grad()
            accelerator.backward(net(torch.rand(4, 8)).square().sum() + method.penalty())
            prepared.step()
            scheduler.step()
        assert method.optimizer is opt and method.step == 3


SCHEDULE_FREE = ("AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree", "ScheduleFreeWrapper")


@pairwise
@every_method
@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_optimizers_are_refused(name: str, make: Make) -> None:
    library = pytest.importorskip("schedulefree")
    net = network()
    made = getattr(library, name)
    given = made(SGD(net.parameters(), 0.1)) if name.endswith("Wrapper") else made(net.parameters())
    with pytest.raises(OptimizerError, match=rf"{name} moves weights outside of its step"):
        make(given, net)
    assert not net._forward_pre_hooks and len(list(net.parameters())) == 4


class TwoModes(Adam):
    """Exchanges the weights for others in evaluation mode, under a name that does not say so."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


class NoHooks(Optimizer):
    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.1}]


class NoRate(Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"eta": 0.1})

    def step(self, closure: Any = None) -> None: ...  # type: ignore[override]


def test_optimizers_that_no_method_can_follow_are_refused() -> None:
    net = network()
    groups = lissom.weights(net)
    parts = [SGD(layer.parameters(), 0.1) for layer in (net[0], net[2])]
    for given, told in (
        (TwoModes(net.parameters()), "TwoModes exchanges the weights by train"),
        (NoHooks(net.parameters()), "NoHooks has no hooks.*__init__"),
        (NoRate(net.parameters()), "NoRate has param groups without 'lr'"),
        (
            Outer(parts[0], "parts", parts),
            r"Outer steps several optimizers \(SGD, SGD\): make a method on",
        ),
        (net, "torch.optim.Optimizer, got Sequential"),
    ):
        with pytest.raises(OptimizerError, match=told):
            lissom.proximal(given, {groups: TopK(10)})


def test_one_that_steps_several_is_followed_itself() -> None:
    net = network()
    chained = Chained([SGD(net[0].parameters(), 0.05), Adam(net[2].parameters(), 0.05)])
    method = lissom.proximal(chained, {lissom.weights(net): TopK(20)})
    assert method.optimizer is chained
    train(net, chained, None, range(3))
    assert method.step == 3
    assert sum(int(net[i].weight.count_nonzero()) for i in (0, 2)) == 20


@every_method
def test_a_step_that_was_wrapped_or_compiled_before_is_followed(make: Make) -> None:
    """Schedulers put a function of their own in the place of `step`; so do accelerate and users."""
    net = network()
    opt = Adam(net.parameters(), 0.01)
    original = opt.step
    opt.step = lambda *args, **kwargs: original(*args, **kwargs)  # type: ignore[method-assign]
    method = make(opt, net)
    train(net, opt, method, range(3))
    assert method.step == 3


def test_a_closure_is_no_obstacle() -> None:
    net = network()
    opt = LBFGS(net.parameters(), lr=0.1, max_iter=3)
    method = lissom.proximal(opt, {lissom.weights(net): TopK(20)})
    x, y = torch.randn(16, 8), torch.arange(16) % 3

    def closure() -> Any:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(2):
        opt.step(closure)
    assert method.step == 2
    assert sum(int(net[i].weight.count_nonzero()) for i in (0, 2)) == 20


# What changes around a method.


@every_method
@pytest.mark.parametrize("first", [True, False])
def test_a_param_group_may_join_later(make: Make, first: bool) -> None:
    """Before or after the groups that are known: rates and metrics are those of now."""
    nets = []
    for together in (True, False):
        net, extra = network(), nn.Linear(2, 2)
        opt = Adam(net.parameters(), 0.01)
        if together:
            opt.add_param_group({"params": extra.parameters(), "lr": 0.5})
        method = make(opt, net)
        if not together:
            opt.add_param_group({"params": extra.parameters(), "lr": 0.5})
        if first:
            opt.param_groups.reverse()
        train(net, opt, method, range(4))
        nets.append(net)
    assert equal(*nets)


@every_method
def test_a_parameter_that_left_the_optimizer_is_an_error_at_the_next_step(make: Make) -> None:
    net = network()
    opt = Adam([{"params": net[0].parameters()}, {"params": net[2].parameters()}], 0.01)
    method = make(opt, net)
    train(net, opt, method, range(2))
    left = 2 if method.name == "gates" else 0
    del opt.param_groups[left]
    with pytest.raises(OptimizerError, match=r"does not hold 0\.weight|log α .* any more"):
        train(net, opt, method, range(2, 3))
    method.remove() if method.name != "gates" else method.finalize()
    train(net, opt, None, range(3, 4))


@every_method
def test_replaced_parameters_are_an_error_at_the_next_step(make: Make) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = make(opt, net)
    train(net, opt, method, range(2))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.load_state_dict(state)  # in place: as it should be
    train(net, opt, method, range(2, 3))
    net.load_state_dict(state, assign=True)
    with pytest.raises(LissomError, match=r"replaced .*load_state_dict\(assign=True\)"):
        train(net, opt, method, range(3, 4))


# They act in the model's calls, and so does a copy of them in those of its copy.
IN_CALLS = ("gates",)
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda parts: pickle.loads(pickle.dumps(parts)),
}


@every_method
@each("copies", COPIES)
def test_a_step_of_a_copied_optimizer_is_an_error_with_the_remedy(make: Make, copies: Any) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = make(opt, net)
    train(net, opt, method, range(3))
    state = copy.deepcopy(method.state_dict())
    if method.name not in IN_CALLS:
        net2, opt2 = copies((net, opt))
        before = bits(net2, opt2)
        with pytest.raises(OptimizerError, match=rf"copy of one that method '{method.name}'"):
            train(net2, opt2, None, range(3, 4))
        net2, opt2 = copies((net, opt))
        assert bits(net2, opt2) == before
        again = make(opt2, net2)
        again.load_state_dict(state)
        train(net2, opt2, again, range(3, 6))
    train(net, opt, method, range(3, 6))
    if method.name not in IN_CALLS:
        assert equal(net, net2)
    method.remove()
    net3, opt3 = copies((net, opt))
    train(net3, opt3, None, range(6, 7))  # of nothing that follows, a copy is plain


@each("make", {name: METHODS[name] for name in ("gates", "lc", "subgradient")})
def test_a_copied_method_says_that_it_follows_nothing(make: Make) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = make(opt, net)
    net2, method2 = copy.deepcopy((net, method))
    opt2 = Adam(net2.parameters(), 0.01)
    with pytest.warns(UserWarning, match="a copy of a method .* stand still"):
        train(net2, opt2, method2, range(1))


@every_method
@each("copies", COPIES)
def test_a_copied_method_ends_as_the_original_or_says_what_it_lacks(
    make: Make, copies: Any
) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = make(opt, net)
    train(net, opt, method, range(4))
    net2, method2 = copies((net, method))
    before = bits(net2)
    needs = method.name == "proximal"  # its learning rates
    if needs:
        for end in (method2.finalize, lambda: method2.deployed().__enter__()):
            with pytest.raises(MethodError, match="a copy of a method, and follows no optimizer"):
                end()
        assert bits(net2) == before
        return
    method2.finalize()
    assert bits(net) == before or method.name == "gates"
    method.finalize()
    assert equal(net, net2)


def test_a_copy_without_its_optimizers_metric_says_so() -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = lissom.nested(opt, net, {lissom.weights(net): TopK(50)}, smallest=0.1)
    train(net, opt, method, range(4))
    net2, method2 = copy.deepcopy((net, method))
    for ask in (method2.finalize, method2.order):
        with pytest.raises(MethodError, match="a copy of a method, and follows no optimizer"):
            ask()
    assert equal(net, net2)


IN_LOSS: dict[str, Make] = {
    "gates": METHODS["gates"],
    "subgradient": METHODS["subgradient"],
}


@each("make", IN_LOSS)
def test_a_penalty_in_a_loss_is_not_maximized(make: Make) -> None:
    net = network()
    up = [{"params": net[0].parameters(), "maximize": True}, {"params": net[2].parameters()}]
    for opt in (SGD(net.parameters(), 0.1, maximize=True), Adam(up, 0.1)):
        with pytest.raises(OptimizerError, match=r"maximize=True.*-objective \+ method.penalty"):
            make(opt, net)
    # Of others, as of Lagrange multipliers, it is none of its business.
    free = nn.Parameter(torch.zeros(()))
    groups = [{"params": net.parameters(), "maximize": False}, {"params": [free]}]
    opt = SGD(groups, 0.1, maximize=True)
    method = make(opt, net)
    assert [g["maximize"] for g in opt.param_groups][2:] == [False] * (method.name == "gates")
    train(net, opt, method, range(2))


@each("make", IN_LOSS)
def test_an_optimizer_of_sparse_gradients_takes_no_penalty_in_a_loss(make: Make) -> None:
    net = network()
    with pytest.raises(OptimizerError, match="SparseAdam takes sparse gradients only"):
        make(SparseAdam(net.parameters(), 0.1), net)


def test_proximal_steps_go_the_same_way_where_the_optimizer_maximizes() -> None:
    nets = [network(), network()]
    for sign, net in zip((1, -1), nets, strict=True):
        opt = Adam(net.parameters(), 0.01, maximize=sign < 0)
        lissom.proximal(opt, {lissom.weights(net): L1(0.1)}, metric="adaptive")
        for n in range(4):
            opt.zero_grad()
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(n))
            (sign * net(x).square().mean()).backward()
            opt.step()
    assert equal(*nets) and not nets[0][0].weight.all()


@each("verb", {"gates": lissom.gate, "nested": partial(lissom.nested, smallest=0.3)})
@each("kind", {"embedding": nn.Embedding, "bag": nn.EmbeddingBag})
def test_factors_of_sparse_embeddings_are_refused(verb: Any, kind: Any) -> None:
    net = nn.Sequential(kind(20, 5, sparse=True), nn.Linear(5, 3))
    opt = SGD(net.parameters(), 0.1)
    penalty = L0(1e-3) if verb is lissom.gate else TopK(fraction=0.5)
    with pytest.raises(LissomError, match=r"0\.weight is of an embedding with sparse=True"):
        verb(opt, net, {lissom.weights(net): penalty})
    assert not net._forward_pre_hooks and len(opt.param_groups) == 1
    method = verb(opt, net, {lissom.weights(net).without("0"): penalty})
    (net(torch.arange(20).view(4, 5)).sum() + method.penalty()).backward()
    opt.step()


@every_method
def test_two_of_one_kind_on_the_same_weights_are_refused(make: Make) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    make(opt, net)
    with pytest.raises(LissomError, match=r"at work on 0\.weight|there are gates|still at work on"):
        make(opt, net)
    assert len(methods_on(opt)) == 1


def test_lc_refuses_what_no_loss_can_draw() -> None:
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    opt = Adam(net.parameters(), 0.01)
    method = lissom.lc(opt, {lissom.weights(net): TopK(50)}, every=2, mu=0.1)
    with pytest.raises(MethodError, match=r"0\.weight is frozen .*'lc' draws weights"):
        train(net, opt, method, range(1))
    with pytest.raises(MethodError, match=r"0\.weight is frozen"):
        method.finalize()
    assert torch.equal(net[0].weight, before)


# Steps that are none.


@pairwise
@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop, AdamW])
@every_method
def test_a_distributed_checkpoint_changes_nothing(make: Make, kind: Any, done: int) -> None:
    """It makes the optimizer's state by a step with a rate of 0 and gradients of 0."""
    if make is METHODS["lc adaptive"] and kind is SGD:
        pytest.skip("the metric is 1")
    if make is METHODS["gates"] and not done and kind in (Adam, AdamW):
        pytest.skip("their bias corrections count that step for the probabilities too")
    runs = []
    for saved in (True, False):
        net = network()
        opt = kind(net.parameters(), 0.01)
        if not saved and not done:
            get_optimizer_state_dict(net, opt)  # this step is one to Adam's bias corrections
        method = make(opt, net)
        train(net, opt, method, range(done))
        opt.zero_grad()
        if saved:
            before = bits(net, method)
            state = get_optimizer_state_dict(net, opt)
            assert bits(net, method) == before
            set_optimizer_state_dict(net, opt, state)
            assert bits(net, method) == before and method.step == done
        train(net, opt, method, range(done, done + 3))
        runs.append(net)
    assert equal(*runs)


# A compiled step.


@pytest.fixture
def _one_compilation() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_one_compilation")
@pytest.mark.parametrize("whole", few([False, True], keep=[False]))
@pytest.mark.parametrize("kind", few([SGD, Adam, RMSprop], keep=[Adam]))
@pytest.mark.parametrize("name", few(METHODS, keep=["adaptive"]))
def test_a_compiled_step_gives_the_numbers_of_one_that_is_not(
    name: str, kind: Any, whole: bool
) -> None:
    """`torch.compile(opt.step)`, or of all that is done with a batch."""
    make, nets = METHODS[name], []
    for compiled in (False, True):
        net = network()
        opt = kind(net.parameters(), torch.tensor(0.01) if kind in (Adam, AdamW) else 0.01)
        method = make(opt, net)
        if whole:
            run = torch.compile(train, backend="eager") if compiled else train
            for n in range(3):
                run(net, opt, method, range(n, n + 1))
        else:
            step = torch.compile(opt.step, backend="eager") if compiled else None
            train(net, opt, method, range(3), step)
        assert method.step == 3
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one == 0, other == 0)
        # torch's own compiled Adam differs by rounding, which the noise of gates multiplies;
        # a step of 0.01 that is left out or done twice is a thousand times as much
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# More than one process.


@pytest.fixture
def one_process() -> Any:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs gloo")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def sharded(net: nn.Module) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))


def in_columns(net: nn.Module) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(net, init_device_mesh("cpu", (1,)), {"0": ColwiseParallel()})


@every_method
@pytest.mark.parametrize("shard", [sharded, in_columns])
def test_sharded_tensors_are_known_or_refused_when_a_method_is_made(
    one_process: None, shard: Any, make: Make
) -> None:
    if make is METHODS["units"]:
        pytest.skip("torch.export runs no such model")
    net = network()
    shard(net)
    opt = Adam(net.parameters(), 0.01)
    refused = ("gates", "nested", "a user's own")  # of single weights; the last says nothing
    if make in [METHODS[name] for name in refused]:
        with pytest.raises(LissomError, match=r"0\.weight"):
            make(opt, net)
        assert not methods_on(opt)
    else:
        made = make(opt, net)
        assert methods_on(opt) == [made]
    assert str(lissom.weights(net)).split()[-2:] == ["176", "176"]


def test_sharding_after_a_method_was_made_is_told_at_the_next_step(one_process: None) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = lissom.proximal(opt, {lissom.weights(net): TopK(50)})
    sharded(net)
    with pytest.raises(MethodError, match="was replaced in the model"):
        train(net, opt, method, range(1))


def test_gates_within_a_wrapper_are_refused_when_they_are_made_or_called(one_process: None) -> None:
    for wrap in (nn.parallel.DistributedDataParallel, nn.DataParallel):
        net = network()
        opt = SGD(net.parameters(), 0.1)
        for model in (wrap(net), nn.Sequential(wrap(net))):
            with pytest.raises(GateError, match=f"before {wrap.__name__} wraps it"):
                lissom.gate(opt, model, {lissom.weights(net): L0(1e-3)})
    net = network()
    opt = SGD(net.parameters(), 0.1)
    parallel = nn.parallel.DistributedDataParallel(net)
    gates = lissom.gate(opt, net, {lissom.weights(net): L0(1e-3)})
    with pytest.raises(GateError, match="before it was gated"):
        train(parallel, opt, gates, range(1))
    train(nn.parallel.DistributedDataParallel(net), opt, gates, range(1))


@every_method
def test_parallel_data_in_the_right_order_is_as_without(one_process: None, make: Make) -> None:
    nets = []
    for wrapped in (False, True):
        net = network()
        opt = Adam(net.parameters(), 0.01)
        method = make(opt, net) if make is METHODS["gates"] else None
        model = nn.parallel.DistributedDataParallel(net) if wrapped else net
        method = method or make(opt, net if make is METHODS["units"] else model)
        train(model, opt, method, range(4))
        nets.append(net)
    assert equal(*nets)


def _rank(rank: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name in names:
        net = network()
        if name == "zero":
            from torch.distributed.optim import ZeroRedundancyOptimizer as Zero

            opt: Any = Zero(net.parameters(), optimizer_class=Adam, lr=0.01)
        else:
            opt = Adam(net.parameters(), 0.01)
        method = METHODS.get(name, METHODS["euclidean"])(opt, net)
        model = nn.parallel.DistributedDataParallel(net)
        for n in range(5):
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(n))[rank::2]
            opt.zero_grad()
            (F.cross_entropy(model(x), torch.arange(8) % 3) + method.penalty()).backward()
            opt.step()
        assert method.step == 5
        method.finalize()
        found[name] = [p.detach() for p in net.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@exhaustive
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_end_with_the_same_zeros(tmp_path: Path, monkeypatch: Any) -> None:
    """Of every method; and as one process does that sees both halves of each batch."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    names = [*METHODS, "zero"]
    fork_several(_rank, (str(tmp_path), names), 2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in names:
        assert all(map(torch.equal, a[name], b[name])), name
    for x, y in zip(a["zero"], a["euclidean"], strict=True):
        torch.testing.assert_close(x, y)
    assert sum(int(p.count_nonzero()) for p in (a["euclidean"][0], a["euclidean"][2])) == 50


def test_parameters_shared_out_over_processes_have_the_outer_optimizer(one_process: None) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = network()
    zero = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=Adam, lr=0.01)
    method = lissom.proximal(zero, {lissom.weights(net): TopK(50)})
    train(net, zero, None, range(3))
    assert method.step == 3
    assert sum(int(net[i].weight.count_nonzero()) for i in (0, 2)) == 50
    assert stepping_optimizer(zero) is zero.optim  # in one process it holds everything
    zero.optim.param_groups.pop()
    assert stepping_optimizer(zero) is zero

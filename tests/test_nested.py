"""One training of all sizes: what each step trains, cuts within one another, curves of cuts."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from path_cases import EXAMPLE, exported_once, make
from products import exhaustive, sampled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import lissom
from lissom import L0, L1, TopK
from lissom.curves import Curve, Start
from lissom.data import Dataset
from lissom.errors import LissomError, MethodError, OptimizerError, PathError
from lissom.groups import Groups
from lissom.methods import NestedOptions
from lissom.methods.nested import Nested
from lissom.recipes import RecipePath, read_recipe
from lissom.recipes.paths import point_recipe
from lissom.report import write_curve_report

X = torch.linspace(-1, 1, 48).view(6, 8)
THIRD = TopK(fraction=0.3)
SIZES = (0.05, 0.1, 0.3, 0.6, 1.0)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def images(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 5, (2, 2)), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3),
    )  # fmt: skip


GROUPS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Groups]]] = {
    "weights": (network, lissom.weights),
    "weights and biases": (network, lambda net: lissom.weights(net, biases=True)),
    "neurons": (network, lambda net: lissom.neurons(net, X)),
    "pixels and neurons": (network, lambda net: lissom.neurons(net, X, inputs=True)),
    "kernels": (images, lissom.kernels),
    "channels": (images, lambda net: lissom.channels(net, X)),
}
COUPLED = ("neurons", "pixels and neurons", "channels")
each_groups = pytest.mark.parametrize("kind", GROUPS)


class Again(nn.Module):
    """A part that runs twice in each pass, and again in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.stem, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
        self.part = nn.Sequential(nn.ReLU(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            if self.reentrant is None:
                x = self.part(x)
            else:
                x = checkpoint(self.part, x, use_reentrant=self.reentrant)
        return self.head(x.relu())


def batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(3, (16,), generator=generator)
    return torch.randn(16, 8, generator=generator) + y[:, None], y


def train(net: nn.Module, opt: Optimizer, steps: range, inputs: int = 8) -> None:
    for n in steps:
        x, y = batch(n)
        opt.zero_grad()
        F.cross_entropy(net.train()(x[:, :inputs]), y).backward()
        opt.step()


def made(
    kind: str = "weights", budget: TopK = THIRD, **options: Any
) -> tuple[nn.Module, Optimizer, Nested]:
    make_model, groups = GROUPS[kind]
    net = make_model()
    opt = AdamW(net.parameters(), lr=0.01)
    options = {"smallest": 0.05, "falls": 10, **options}
    return net, opt, lissom.nested(opt, net, {groups(net): budget}, **options)


def test_sizes_fill_what_is_between_the_smallest_and_all() -> None:
    options = NestedOptions(smallest=1e-3, falls=1000)
    logs = [torch.tensor(options.size(step)).log10().item() for step in range(5000)]
    for step, log in enumerate(logs):
        assert -3 * min(1.0, step / 1000) - 1e-9 <= log <= 0
    late = torch.tensor(logs[1000:])
    counts = torch.histc(late, 30, -3, 0)
    assert counts.min() > 130 and counts.max() < 137  # of 4000 / 30
    first = torch.tensor(logs[:100])
    assert first.min() > -0.3  # it begins with all


@each_groups
def test_a_step_trains_the_first_groups_alone(kind: str) -> None:
    net, opt, method = made(kind, smallest=0.2, falls=0, every=1)
    train(net, opt, range(3))
    for n in range(3, 8):
        x, y = batch(n)
        with method.deployed(max(method.size, 0.2)):
            cut = _plain(net, kind)
        opt.zero_grad()
        loss = F.cross_entropy(net.train()(x), y)
        torch.testing.assert_close(loss, F.cross_entropy(cut.train()(x), y))
        loss.backward()
        F.cross_entropy(cut(x), y).backward()
        for (name, p), q in zip(net.named_parameters(), cut.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            alive = q != 0
            torch.testing.assert_close(p.grad[alive], q.grad[alive])
            if method.size < 0.5 and name == "0.weight" and kind == "weights":
                assert not p.grad[~alive].any() and (~alive).any()
        before = copy.deepcopy(net.state_dict())
        opt.step()
        changed = [not torch.equal(before[name], p) for name, p in net.named_parameters()]
        assert all(changed)  # decay and moments are of all weights


def _plain(net: nn.Module, kind: str) -> nn.Module:
    """A network of these weights without hooks."""
    twin = GROUPS[kind][0]()
    twin.load_state_dict(net.state_dict())
    return twin


@sampled(4)
@each_groups
@pytest.mark.parametrize("per", ["all", "layer"])
def test_smaller_networks_lie_within_larger_ones(kind: str, per: Any) -> None:
    net, opt, method = made(kind, TopK(fraction=0.3, per=per))
    train(net, opt, range(15))
    whole = {name: t.clone() for name, t in net.state_dict().items()}
    order = method.order()
    [groups] = method.penalties
    last = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.named_parameters()}
    for fraction in SIZES:
        with method.deployed(fraction):
            blocks = [groups.norms()] if per == "all" else [[n] for n in groups.norms()]
            for norms in blocks:
                n = sum(x.numel() for x in norms)
                left = sum(int(x.count_nonzero()) for x in norms)
                most = int(fraction * n + 0.5)
                # What reads dead units is gone too, which may empty another.
                assert left == most or (left < most and kind in COUPLED)
            for name, p in net.named_parameters():
                alive = p != 0
                assert torch.equal(p[alive], whole[name][alive])
                assert not (last[name] & ~alive).any()
                assert torch.equal(alive, _stays(order, name, fraction) & (whole[name] != 0))
                last[name] = alive
        assert all(torch.equal(whole[name], t) for name, t in net.state_dict().items())
    method.finalize(0.1)
    for name, p in net.named_parameters():
        assert torch.equal(p != 0, _stays(order, name, 0.1) & (whole[name] != 0))
    train(net, opt, range(15, 20))
    for name, p in net.named_parameters():
        assert not p[~_stays(order, name, 0.1)].any()


def _stays(order: dict[str, Tensor], name: str, fraction: float) -> Tensor:
    """Where a parameter has weights in a cut; one that is in no group is whole."""
    return order[name] <= fraction if name in order else torch.tensor(True)


def test_its_penalties_say_what_is_delivered() -> None:
    net, opt, method = made(budget=TopK(40))
    train(net, opt, range(12))
    with method.deployed():
        assert sum(int(p.count_nonzero()) for p in net.parameters() if p.ndim > 1) == 40
    method.finalize()
    assert sum(int(p.count_nonzero()) for p in net.parameters() if p.ndim > 1) == 40


def test_in_evaluation_mode_it_is_the_whole_network() -> None:
    net, opt, method = made(falls=0)
    train(net, opt, range(5))
    assert method.size < 0.5
    plain = _plain(net, "weights").eval()
    assert torch.equal(net.eval()(X), plain(X))
    assert not torch.equal(net.train()(X), plain(X))
    assert torch.equal(net.train()(X), net(X))  # one size a step, however many calls
    assert set(net.state_dict()) == set(plain.state_dict())


def test_before_the_start_all_weights_are_trained() -> None:
    net, opt, method = made(falls=0, start=4)
    plain = network()
    other = AdamW(plain.parameters(), lr=0.01)
    train(net, opt, range(4))
    train(plain, other, range(4))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), plain.parameters(), strict=True))
    train(net, opt, range(4, 7))
    assert method.now == 3 and method.size < 1


def test_an_average_is_of_all_sizes() -> None:
    net, opt, method = made()
    average = AveragedModel(net)
    for n in range(12):
        train(net, opt, range(n, n + 1))
        average.update_parameters(net)
    assert all(p.all() for p in average.module.parameters() if p.ndim > 1)
    net.load_state_dict(average.module.state_dict())
    method.finalize(0.1)
    assert sum(int(p.count_nonzero()) for p in net.parameters() if p.ndim > 1) == 36


def parametrized() -> nn.Module:
    """Its class copies its own __dict__, with all hooks in it."""
    net = network()
    nn.utils.parametrize.register_parametrization(net[0], "bias", nn.Identity())
    return net


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "AveragedModel": lambda net: AveragedModel(net).module,
    "in a list": lambda net: copy.deepcopy([net])[0],
}


@pytest.mark.parametrize("make_model", [network, images, parametrized])
@pytest.mark.parametrize("copies", COPIES)
def test_a_copy_is_a_plain_network_of_all_weights(
    make_model: Callable[[], nn.Module], copies: str
) -> None:
    if make_model is parametrized and copies == "pickle":
        pytest.skip("torch refuses to pickle it")
    net = make_model()
    opt = AdamW(net.parameters(), lr=0.01)
    method = lissom.nested(opt, net, {lissom.weights(net): THIRD}, smallest=0.05)
    train(net, opt, range(6))
    assert method.size < 0.6
    twin, plain = COPIES[copies](net), make_model()
    plain.load_state_dict(net.state_dict())
    if make_model is not parametrized:
        for module in twin.modules():
            assert not module._forward_pre_hooks and not module._forward_hooks
            assert not module._forward_hooks_always_called and "__getstate__" not in vars(module)
        lissom.shrink(twin, X)  # refuses one that a method is at work on
    for net2 in (twin, plain):  # trained by a plain loop, with the statistics that this gives
        train(net2, SGD(net2.parameters(), lr=0.1), range(6, 8))
    for (name, p), q in zip(twin.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert not torch.equal(net.train()(X), net.eval()(X))  # which goes on as it was
    method.finalize()
    assert not any("__getstate__" in vars(module) for module in net.modules())


def test_another_order_after_every_few_steps_only() -> None:
    net, opt, method = made(every=3, falls=0)
    seen = []
    for n in range(9):
        train(net, opt, range(n, n + 1))
        gains = method.own_state()["gains"][0]
        seen.append(None if gains is None else gains.sum().item())
    assert seen[2] == seen[3] == seen[4] != seen[5] == seen[6] == seen[7] != seen[8]


@exhaustive
def test_compiled_it_is_not_compiled_at_each_step() -> None:
    net, opt, _ = made(falls=0)
    compiled = [0]

    def counting(graph: Any, inputs: Any) -> Any:
        compiled[0] += 1
        return graph

    run = torch.compile(net, backend=counting)
    train(run, opt, range(3))
    before = compiled[0]
    train(run, opt, range(3, 9))
    assert compiled[0] == before
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"smallest": 0}, "smallest is a fraction of the groups, between 0 and 1, got 0"),
        ({"smallest": 1.0}, "between 0 and 1, got 1.0"),
        ({"smallest": 0.1, "falls": -1}, "falls counts steps, 0 or more, got -1"),
        ({"smallest": 0.1, "every": 0}, "every counts steps, 1 or more, got 0"),
        (
            {"smallest": 0.5},
            "smallest=0.5 of the groups are trained, and TopK(fraction=0.3) is below it",
        ),
        ({"smalest": 0.5}, "'smalest'. Did you mean 'smallest'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    net = network()
    opt = SGD(net.parameters(), 0.1)
    with pytest.raises(MethodError) as caught:
        lissom.nested(opt, net, {lissom.weights(net): TopK(fraction=0.3)}, **options)
    assert told in str(caught.value)


def test_what_it_cannot_be_put_on() -> None:
    net, opt, method = made()
    weights = lissom.weights(net)
    with pytest.raises(MethodError, match="a method is still at work on this Sequential"):
        lissom.nested(opt, net, {weights: TopK(5)}, smallest=0.1)
    with pytest.raises(MethodError, match="a method is still at work on this Sequential"):
        lissom.gate(SGD(net.parameters(), 0.1), net, {weights: L0(1e-3)})
    with pytest.raises(MethodError, match="a method is still at work"):
        lissom.shrink(net, X)
    with method.deployed():
        lissom.measure(net)
    method.remove()
    with pytest.raises(MethodError, match=r"TopK\(5\), 0.014 of the groups, is below it"):
        lissom.nested(opt, net, {weights: TopK(5)}, smallest=0.1)
    for penalty in (L1(1e-3), TopK(2, per="block"), TopK(8, multiple_of=4)):
        with pytest.raises(MethodError, match="takes TopK of all groups together, or of each l"):
            lissom.nested(opt, net, {weights: penalty}, smallest=0.1)  # type: ignore[dict-item]
    with pytest.raises(MethodError, match="choose the groups from the model"):
        lissom.nested(opt, nn.Sequential(nn.Linear(8, 3)), {weights: TopK(50)}, smallest=0.1)
    with pytest.raises(MethodError, match=r"its model is a torch\.nn\.Module, got dict"):
        lissom.nested(opt, {}, weights, smallest=0.1)  # type: ignore[arg-type]
    odd = torch.optim.Adamax(net.parameters())
    with pytest.raises(OptimizerError, match="metric='euclidean' works with every optimizer"):
        lissom.nested(odd, net, {weights: TopK(50)}, smallest=0.1)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)))
    with pytest.raises(MethodError, match="computes weights from other parameters"):
        lissom.nested(
            SGD(normed.parameters(), 0.1), normed, {lissom.weights(normed): TopK(50)}, smallest=0.1
        )


@pytest.mark.parametrize("fraction", [0.04, 1.5, -1, "all"])
def test_a_size_that_is_not_trained_is_refused(fraction: Any) -> None:
    _, _, method = made()
    with pytest.raises(LissomError), method.deployed(fraction):
        pass
    with pytest.raises(LissomError):
        method.finalize(fraction)
    assert not method.finalized


def test_statistics_are_made_anew_for_a_cut() -> None:
    x, y = torch.cat([batch(n)[0] for n in range(4)]), torch.cat([batch(n)[1] for n in range(4)])
    data = Dataset("made up", x, y, x, y, classes=3)
    net, opt, method = made("channels", TopK(fraction=0.5))
    trainer = lissom.Trainer(net, opt, data, method=method, epochs=3, batch_size=16)
    seen = []
    trainer.callbacks = (_Seeing(seen),)
    found = trainer.fit()
    norm = net[2]
    means = net[1](net[0](x)).mean((0, 2, 3)).detach()
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    wrong = float((net.eval()(x).argmax(1) != y).float().mean())
    assert found.test.error == pytest.approx(wrong)  # as it was told, with statistics of the cut
    assert seen[0] > 0.02


class _Seeing:
    """How far the statistics of training are from those of the whole network, after an epoch."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def on_epoch_end(self, trainer: Any, found: Any) -> None:
        net = trainer.model
        means = net[1](net[0](trainer.data.train_x)).mean((0, 2, 3)).detach()
        self.seen.append(float((means - net[2].running_mean).abs().max()))


# The curve.


def fit(net: nn.Module, strength: float | None, start: Start) -> dict[str, Any]:
    """One training for all points, and two epochs of fine-tuning at some."""
    opt = AdamW(net.parameters(), lr=0.01)
    kept = TopK(fraction=strength or 1)
    method = lissom.nested(opt, net, {lissom.weights(net): kept}, smallest=0.05, falls=20)
    if strength is None:
        train(net, opt, range(40), inputs=6)
        method.finalize()
        return {"optimizer": opt.state_dict(), "order": method.order()}
    assert start.state is not None
    method.warm_start(start.state["optimizer"])
    method.finalize()
    if strength < 0.3:
        train(net, opt, range(40, 46), inputs=6)
    return {}


def error(net: nn.Module) -> float:
    x, y = batch(99)
    return float((net(x[:, :6]).argmax(1) != y).float().mean())


def path(**options: Any) -> Curve:
    given = {"make_model": make, "error": error, "example_inputs": EXAMPLE, "seeds": 2}
    given |= {"cuts": True}
    with exported_once():
        given = {"fit": fit, **given, **options}
        return lissom.path(given.pop("fit"), [0.6, 0.3, 0.1], progress=False, **given)


@pytest.fixture(scope="module")
def curve() -> Curve:
    return path()


def test_points_are_cuts_of_one_training(curve: Curve) -> None:
    assert [s.made for s in curve.settings] == ["trained", "cut", "cut", "fine-tuned"]
    for seed in range(2):
        dense, *others = [p for p in curve.points if p.seed == seed]
        assert dense.origin is None and all(p.origin == "dense" for p in others)
        larger = curve.tensors(dense)
        for point in others:
            tensors = curve.tensors(point)
            for name in curve.parameters:
                assert not ((tensors[name] != 0) & (larger[name] == 0)).any()
                if point.made == "cut":
                    alive = tensors[name] != 0
                    assert torch.equal(tensors[name][alive], larger[name][alive])
            larger = tensors
    rows = str(curve).splitlines()
    assert "cut" in rows[-2] and "fine-tuned" in rows[-1] and "cut" not in rows[-4]


def test_the_page_says_which_points_are_cuts(curve: Curve, tmp_path: Path) -> None:
    page = write_curve_report([curve.out], tmp_path).read_text()
    assert page.count('<td class="marks">') == 4
    rows = page.split('<td class="marks">')[1:]
    assert [
        next((w for w in ("fine-tuned", "cut") if w in r.partition("</tr>")[0]), "") for r in rows
    ] == ["", "cut", "cut", "fine-tuned"]
    assert "strength 0.1, fine-tuned" in page and "strength 0.3, cut" in page


def test_a_size_that_nobody_trained(curve: Curve) -> None:
    dense = next(p for p in curve.points if p.seed == 1 and p.strength is None)
    order = torch.load(dense.folder / "state.pt", weights_only=True)["state"]["order"]
    whole = curve.tensors(dense)
    for limit in (100, 50.0):
        with exported_once():
            size = lissom.measure(curve.at(nonzeros=limit, seed=1)).nonzeros
        assert limit - 6 <= size <= limit  # a weight less may be a unit less, with its bias
        assert size not in [point.size() for point in curve.points]
    net = make(0)
    net.load_state_dict(whole)
    fraction = 0.45
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name in order:
                p.mul_(order[name] <= fraction)
    with exported_once():
        expected = lissom.shrink(net, EXAMPLE)
        found = curve.at(nonzeros=lissom.measure(expected).nonzeros, seed=1)
    torch.testing.assert_close(found(EXAMPLE), expected(EXAMPLE))


def test_what_cannot_be_cut(curve: Curve, tmp_path: Path) -> None:
    with exported_once(), pytest.raises(PathError, match=r"no cut has at most nonzeros=1"):
        curve.at(nonzeros=1)
    with pytest.raises(PathError, match="there is no dense network of seed=5"):
        curve.at(nonzeros=50, seed=5)
    with pytest.raises(PathError, match="a budget is of one size"):
        curve.at()
    read = Curve.load(curve.out, make)
    with pytest.raises(PathError, match=r"Curve.load\(out, make_model, example_inputs\)"):
        read.at(nonzeros=50)
    read = Curve.load(curve.out, make, EXAMPLE)
    with exported_once():
        assert lissom.measure(read.at(macs=40)).nonzeros <= 50


def test_a_path_of_cuts_goes_on_as_it_was(curve: Curve, tmp_path: Path) -> None:
    def failing(net: nn.Module, strength: float | None, start: Start) -> Any:
        if strength == 0.3:
            raise MemoryError("out of memory")
        return fit(net, strength, start)

    with pytest.raises(MemoryError):
        path(fit=failing, out=tmp_path)
    again = path(out=tmp_path, retry_failed=True)
    for a, b in zip(again.points, curve.points, strict=True):
        assert (a.strength, a.error, a.sizes, a.made) == (b.strength, b.error, b.sizes, b.made)
        one, other = again.tensors(a), curve.tensors(b)
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(PathError, match="cuts=True, and this call has cuts=False"):
        path(out=tmp_path, cuts=False)


# Recipes.

SHORT = ["path.dense=2", "path.fine_tune=1", "path.seeds=1", "path.strengths=[0.3, 0.1, 0.02]"]


def test_the_recipe_of_each_point() -> None:
    recipe = read_recipe("digits-path-nested")
    dense, point = point_recipe(recipe, None, None), point_recipe(recipe, 0.1, 0.3)
    assert dense.method is not None and point.method is not None
    assert (dense.train.epochs, dense.train.cosine_from) == (60, 30)
    options = dense.method.options(10)
    assert (options.smallest, options.falls, options.finalize_at) == (5e-4, 300, None)
    assert [p.penalty(1) for p in dense.penalties] == [TopK(fraction=1.0)]
    assert (point.train.epochs, point.train.cosine_from) == (10, 0)
    assert [p.penalty(1) for p in point.penalties] == [TopK(fraction=0.1)]
    scratch = point_recipe(recipe, 0.1, None, untrained=True)
    assert (scratch.train.epochs, scratch.train.cosine_from) == (60, 30)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["path.epochs=20"], "a point is a cut with fine_tune epochs: leave out epochs"),
        (["path.strengths=[0.5, 1e-4]"], "sizes down to smallest=0.0005 of the groups are trained"),
        (
            ["penalties.0.TopK=40", "path.strength=penalties.0.TopK"],
            "a fraction of them, not",
        ),
        (
            ["method={name='proximal'}"],
            "under method 'proximal' a point is trained for some epochs",
        ),
    ],
)
def test_recipes_that_make_no_curve(changes: list[str], told: str) -> None:
    with pytest.raises(LissomError) as caught:
        read_recipe("digits-path-nested", changes)
    assert told in str(caught.value)


@exhaustive
@pytest.mark.parametrize("fine_tune", [1, 0])
def test_a_curve_of_a_recipe(fine_tune: int, tmp_path: Path) -> None:
    recipe = read_recipe("digits-path-nested", [*SHORT, f"path.fine_tune={fine_tune}"])
    curve = RecipePath(recipe, tmp_path).run(progress=False)
    made = "fine-tuned" if fine_tune else "cut"
    assert [s.made for s in curve.settings] == ["trained", made, made, made]
    larger = curve.tensors(curve.points[0])
    for point in curve.points[1:]:
        tensors = curve.tensors(point)
        assert point.strength is not None
        matrices = [t for name, t in tensors.items() if t.ndim > 1]
        assert sum(int(t.count_nonzero()) for t in matrices) == round(point.strength * 50_200)
        for name in curve.parameters:
            assert not ((tensors[name] != 0) & (larger[name] == 0)).any()
        larger = tensors
    assert curve.points[0].error < 0.4


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_part_that_runs_again_has_the_same_size(reentrant: bool) -> None:
    def trained(net: Again) -> list[Tensor]:
        opt = AdamW(net.parameters(), lr=1e-2)
        lissom.nested(opt, net, {lissom.weights(net): THIRD}, smallest=0.1, falls=1)
        train(net, opt, range(8))
        return [p.detach() for p in net.parameters()]

    for one, other in zip(trained(Again(None)), trained(Again(reentrant)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

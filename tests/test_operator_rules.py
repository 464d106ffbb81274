"""Rules of torch's operators, each between two layers: units are found, and removed exactly."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from products import exhaustive, few, sampled, thinned
from shrink_cases import Between as Net
from shrink_cases import assert_equal, drawn, inputs, refusals, report, zero_, zero_half_
from torch import Tensor, nn

import lissom

Rule = Callable[[Tensor], Tensor]
TO = torch.tensor([0, 1, 2, 3, 0])


def into(h: Tensor, part: Tensor, write: Callable[[Tensor, Tensor], object]) -> Tensor:
    h = h.clone()
    write(h, part)
    return h


def numbers(h: Tensor) -> Tensor:
    return TO[None, :, None].expand(h.shape)


# Between nn.Linear(6, 8) and nn.Linear(8, 3), on [batch, time, width].
OVER_TIME: dict[str, Rule] = {
    "index_add": lambda h: torch.zeros_like(h).index_add(1, TO, h),
    "index_copy": lambda h: h.index_copy(1, TO[1:3], h[:, :2]),
    "index_fill": lambda h: h.index_fill(1, TO[1:3], 0.0),
    "index_reduce": lambda h: h.index_reduce(1, TO, h, "amax"),
    "index_select": lambda h: h.index_select(1, TO),
    "index_put": lambda h: h.index_put((torch.arange(2), TO[:2]), h[:, 0]),
    "index_put of one number": lambda h: h.index_put((TO[:2],), h.new_zeros(())),
    "h[:, index] = 0": lambda h: into(h, h, lambda h, _: h.__setitem__((slice(None), TO[:2]), 0)),
    "h[mask] = 0": lambda h: into(h, h, lambda h, p: h.__setitem__(p > 0.3, 0)),
    "h[mask of time] = 0": lambda h: into(
        h, h, lambda h, p: h.__setitem__(p.new_ones(p.shape[:2]).cumsum(1) > 3, 0)
    ),
    "h[:, 0] = 0": lambda h: into(h, h, lambda h, _: h[:, 0].zero_()),
    "h[:, 1:3] = h": lambda h: into(h, h, lambda h, p: h[:, 1:3].copy_(2 * p[:, :2])),
    "select_scatter": lambda h: h.select_scatter(h[:, 0], 1, 2),
    "slice_scatter": lambda h: h.slice_scatter(h[:, :2], 1, 1, 3),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, numbers(h), h),
    "scatter of a number": lambda h: h.scatter(1, numbers(h)[:, :2], 0.0),
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(1, numbers(h), h),
    "scatter_reduce": lambda h: h.scatter_reduce(1, numbers(h), h, "mean"),
    "gather": lambda h: h.gather(1, numbers(h)),
    "take_along_dim": lambda h: h.take_along_dim(TO[None, :, None], 1),
    "zeros": lambda h: torch.cat([torch.zeros(h.shape[0], 1, 8, dtype=h.dtype), h], 1),
    "new_zeros": lambda h: torch.cat([h.new_zeros(h.shape[0], 1, 8), h], 1),
    "new_full": lambda h: h + h.new_full((8,), 0.0),
    "empty": lambda h: torch.empty_like(h).copy_(h),
    "sort": lambda h: h.sort(1).values,
    "msort": lambda h: h.movedim(1, 0).msort().movedim(0, 1),
    "topk": lambda h: h.topk(3, 1).values,
    "max and where": lambda h: h.max(1).values[:, None] + h.gather(1, h.argmax(1, keepdim=True)),
    "min": lambda h: h.min(1, keepdim=True).values + h,
    "max of two": lambda h: torch.max(h, -2 * h),
    "aminmax": lambda h: torch.stack(torch.aminmax(h, dim=1), 1),
    "median": lambda h: h.median(1).values,
    "nanmedian": lambda h: h.nanmedian(1, keepdim=True).values,
    "mode": lambda h: h.mode(1).values,
    "kthvalue": lambda h: h.kthvalue(2, 1).values,
    "quantile": lambda h: h.quantile(0.3, 1),
    "quantiles": lambda h: h.quantile(torch.tensor([0.1, 0.6]).to(h), 1).movedim(0, 1),
    "nanmean": lambda h: h.nanmean(1),
    "nansum": lambda h: h.nansum(1),
    "norm": lambda h: h.norm(3, dim=1),
    "count_nonzero": lambda h: h * h.count_nonzero(1)[:, None],
    "cumsum": lambda h: h.cumsum(1),
    "cumprod": lambda h: h.cumprod(1),
    "cummax": lambda h: h.cummax(1).values,
    "diff": lambda h: h.diff(dim=1, prepend=h[:, :1]),
    "tril": lambda h: h.mT.unflatten(-1, (-1, 1)).tril().flatten(2).mT,
    "cross": lambda h: torch.linalg.cross(h[:, :3], h[:, 2:5], dim=1),
    "renorm": lambda h: h.movedim(-1, 0).renorm(2, 0, 1.0).movedim(0, -1),
    "unfold": lambda h: h.unfold(1, 3, 1).mean(-1),
    "rfft": lambda h: torch.fft.irfft(torch.fft.rfft(h, dim=1), n=h.shape[1], dim=1),
    "fft of 2 dims": lambda h: torch.fft.fft2(h.unflatten(1, (-1, 1)), dim=(1, 2)).real.flatten(
        1, 2
    ),
    "fftshift": lambda h: torch.fft.fftshift(h, 1),
    "as complex": lambda h: torch.view_as_real(torch.complex(h, 2 * h) * (1 + 1j)).sum(-1),
    "polar": lambda h: (torch.polar(h, h) * torch.polar(h, -h).conj()).imag,
    "angle": lambda h: torch.view_as_complex(torch.stack([h, -h], -1)).angle(),
    "hstack": lambda h: torch.hstack([h, h]),
    "vstack": lambda h: torch.vstack([h, h]).unflatten(0, (2, -1)).sum(0),
    "broadcast": lambda h: torch.broadcast_tensors(h[:, :1], h)[0] + h,
    "broadcast_to": lambda h: h[:, :1].broadcast_to(h.shape),
    "diagonal": lambda h: h[:, :4].unflatten(1, (2, 2)).diagonal(dim1=1, dim2=2).mT,
    "cosine": lambda h: h * F.cosine_similarity(h, h.cos() - 1, -1)[..., None],
    "cdist": lambda h: torch.cdist(h, 2 * h) @ h,
    "distances to others": lambda h: torch.cdist(h, 2 * h).mean(-1, keepdim=True) * h,
    "vectors": lambda h: h * (h @ h[0, 0])[..., None],
    "einsum": lambda h: torch.einsum("...td,...sd->...ts", h, h) @ h,
    "einsum of three": lambda h: torch.einsum("btd,bsd,bse->bte", h, h, h),
    "einsum without a result": lambda h: torch.einsum("btd,bsd", h, h).mean() * h,
    "fake_quantize": lambda h: torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -128, 127),
    "bucketize": lambda h: h * torch.bucketize(h, torch.linspace(-1, 1, 5).to(h)),
    "linspace": lambda h: h * torch.linspace(0.5, 1.0, 8, dtype=h.dtype),
    "arange": lambda h: h * torch.arange(1, 9),
    "a constant": lambda h: h * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]),
    "a mask": lambda h: torch.where(torch.tensor([True, False] * 4), h, 2 * h),
    "window": lambda h: h + h.abs() * torch.hann_window(8, dtype=h.dtype),
}
# Of these a zero is no zero any more, or not for every length; the units stay.
READ: dict[str, Rule] = {
    "var_mean": lambda h: sum(torch.var_mean(h, 1)),  # type: ignore[arg-type, return-value]
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "softmax": lambda h: h.softmax(1),
    "size": lambda h: h / h.size(1),
}
# Between nn.Conv2d(3, 8, 3, padding=1) and nn.Conv2d(8, 2, 1), on [batch, width, 6, 6].
OVER_MAPS: dict[str, Rule] = {
    "grid_sample": lambda h: F.grid_sample(h, grid(h), align_corners=False),
    "affine_grid": lambda h: F.grid_sample(
        h, F.affine_grid(h.new_ones(len(h), 2, 3), [len(h), 1, 4, 4]), align_corners=False
    ),
    "max_unpool": lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2),
    "im2col and back": lambda h: F.fold(F.unfold(h, 3, padding=1) * 2, (6, 6), 3, padding=1),
    "fft2": lambda h: torch.fft.ifft2(torch.fft.fft2(h) * 2).real,
    "max": lambda h: h * h.max(-1, keepdim=True).values,
    "vector_norm": lambda h: h / (1 + torch.linalg.vector_norm(h, dim=(2, 3), keepdim=True)),
}
QUICK = """
    index_put scatter_add gather h[:,1:3]=h max_and_where quantiles cumsum rfft as_complex diagonal
    cdist einsum_of_three linspace a_constant max_unpool im2col_and_back
""".split()
SPELT = {name: name.replace(" ", "_") for name in [*OVER_TIME, *OVER_MAPS]}


def grid(h: Tensor) -> Tensor:
    at = torch.linspace(-1.2, 1.2, 32, dtype=h.dtype).view(1, 4, 4, 2)
    return at.expand(len(h), 4, 4, 2)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The rule between two layers, and its input."""
    if name in OVER_MAPS:
        f, x = OVER_MAPS[name], inputs(3, 6, 6)
        layers = dict(a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 2, 1))
        return drawn(Net(lambda m, x: m.b(f(F.relu(m.a(x)))), **layers), seed=1), x
    f, x = OVER_TIME[name], inputs(5, 6)
    layers = dict(a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    return drawn(Net(lambda m, x: m.b(f(F.tanh(m.a(x)))), **layers), seed=1), x


@sampled(3)
@pytest.mark.parametrize("name", few(SPELT, [n for n, s in SPELT.items() if s in QUICK]))
def test_units_around_an_operator_are_removed_exactly(name: str) -> None:
    net, x = network(name)
    removed_exactly(net, x)


@exhaustive
@pytest.mark.parametrize("name", thinned(SPELT, 2))
def test_around_an_operator_with_biases_left_in_and_as_a_graph(name: str) -> None:
    net, x = network(name)
    zero_(net.a.weight[:3], net.a.bias[1:2], net.b.weight[:, 5])
    for as_graph in (None, True):
        small = lissom.shrink(net, x, as_graph=as_graph)
        assert report(small).pinned_by == {}
        assert_equal(net, small, x)
    zero_half_(net, x)
    assert_equal(net, lissom.shrink(net, x, as_graph=True), x)


@pytest.mark.parametrize("name", few(READ, ["size"]))
def test_units_of_which_nothing_is_known_stay(name: str) -> None:
    f, x = READ[name], inputs(5, 6)
    net = drawn(Net(lambda m, x: m.b(f(m.a(x).tanh())), a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    zero_(net.a.weight[:3], net.a.bias[:3], net.b.weight[:, 2:4])
    small = lissom.shrink(net, x)
    assert report(small).removed == 2  # what is not read
    assert_equal(net, small, x)


# Along the units themselves a dim that is numbered stays.
ALONG: dict[str, Rule] = {
    "sort": lambda h: h.sort(-1).values,
    "topk": lambda h: h.topk(8, -1).values,
    "unfold": lambda h: h.unfold(-1, 1, 1)[..., 0],
    "index_add": lambda h: torch.zeros_like(h).index_add(-1, torch.arange(8), h),
    "gather": lambda h: h.gather(-1, torch.arange(8).expand(h.shape)),
    "scatter": lambda h: torch.zeros_like(h).scatter(-1, torch.arange(8).expand(h.shape), h),
    "fft": lambda h: torch.fft.fft(h).real,
    "max": lambda h: h - h.max(-1, keepdim=True).values,
    "median": lambda h: h - h.median(-1, keepdim=True).values,
    "argmax": lambda h: h + h.argmax(-1, keepdim=True),
    "quantile": lambda h: h - h.quantile(0.5, -1, keepdim=True),
    "pairwise_distance": lambda h: h * F.pairwise_distance(h, 2 * h)[..., None],
    "diagonal": lambda h: h[..., None, :].expand(-1, -1, 8, -1).diagonal(dim1=-2, dim2=-1),
    "cumsum": lambda h: h.cumsum(-1),
    "select_scatter": lambda h: h.select_scatter(h[..., 0], -1, 1),
    "index_put": lambda h: into(h, h[..., :2], lambda h, p: h[..., TO[:2]].copy_(p)),
    "inverse": lambda h: torch.linalg.pinv(h).mT,
}


@pytest.mark.parametrize("name", few(ALONG, ["topk", "gather", "fft", "index_put", "argmax"]))
def test_operators_that_number_a_dim_keep_it(name: str) -> None:
    f = ALONG[name]
    net = drawn(Net(lambda m, x: m.b(f(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    zero_(net.a.weight[:3], net.a.bias[:3])
    small = lissom.shrink(net, inputs(5, 6))
    assert report(small).removed == 0
    assert_equal(net, small, inputs(5, 6))


def removed_exactly(net: nn.Module, x: Tensor) -> None:
    zeroed = zero_half_(net, x)
    with refusals() as refused:
        small = lissom.shrink(net, x)
    assert not refused and zeroed > 0
    assert report(small).removed == zeroed and report(small).pinned_by == {}
    assert_equal(net, small, x)

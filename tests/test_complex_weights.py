"""Complex weights: their size is |w|; counted, penalised, kept on disk, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from products import few
from shrink_cases import EXACT, apart
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom.errors import MethodError, RunError
from lissom.storage.tensors import load_tensors, save_tensors

KINDS = [torch.complex64, torch.complex128]


def radio(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 8, 5, dtype=dtype), nn.Conv1d(8, 3, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", few(KINDS, [torch.complex64]))
@pytest.mark.parametrize("groups", ["weights", "kernels"])
@pytest.mark.parametrize("penalty", [lissom.L1(0.3), lissom.L0(0.045), lissom.TopK(20)])
@pytest.mark.parametrize("fused", [True, False])
def test_the_prox_of_complex_weights(
    dtype: torch.dtype, groups: str, penalty: Any, fused: bool
) -> None:
    """s·w with s real: the angle stays, and |w| is what the penalty's own prox makes of it."""
    net = radio(dtype)
    made = getattr(lissom, groups)(net)
    before = [m.detach().clone() for m in (net[0].weight, net[1].weight)]
    norms = [n.clone().double() for n in made.norms()]
    opt = torch.optim.SGD(net.parameters(), 1.0)
    method = lissom.proximal(opt, {made: penalty}, fused=fused)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 1e-30)  # stepped, and where it was
    (method.penalty() if penalty != lissom.TopK(20) else None)
    opt.step()
    flat = torch.cat([n.flatten() for n in norms])
    wanted = lissom.penalties.penalty.proxed(penalty, flat, torch.ones_like(flat), None)
    found = torch.cat([n.flatten() for n in made.norms()]).double()
    assert torch.allclose(found, wanted, atol=1e-6) and 0 < int((found == 0).sum()) < len(found)
    for old, new in zip(before, (net[0].weight, net[1].weight), strict=True):
        alive = new.detach() != 0
        apart_ = (old / old.abs() - new.detach() / new.detach().abs())[alive].abs()
        assert not len(apart_) or float(apart_.max()) < 1e-5
    counted = lissom.measure(net)
    assert counted.weights == 40 + 8 + 72 + 3
    assert counted.nonzeros == sum(int(torch.count_nonzero(p)) for p in net.parameters())
    assert counted.storage[0].dense == 40 * net[0].weight.element_size()


def test_what_is_not_for_complex_weights() -> None:
    net = radio(torch.complex64)
    weights, opt = lissom.weights(net), torch.optim.Adam(net.parameters())
    for make in (
        lambda: lissom.proximal(opt, {weights: lissom.L1(1e-3)}, metric="adaptive"),
        lambda: lissom.lc(opt, {weights: lissom.TopK(5)}, every=2),
        lambda: lissom.gate(opt, net, {weights: lissom.L0(1e-3)}),
    ):
        with pytest.raises(MethodError, match=r"0\.weight is complex.*euclidean"):
            make()
    with pytest.raises(MethodError, match=r"NonNegative\(\) knows real weights only"):
        lissom.proximal(opt, {weights: lissom.NonNegative()})
    method = lissom.subgradient(opt, {weights: lissom.L1(1e-3)})
    method.penalty().backward()
    assert net[0].weight.grad is not None and net[0].weight.grad.isfinite().all()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)
        self.w = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.b(F.relu(self.a(x))) * self.w).abs()


@pytest.mark.parametrize("graph", [False, True])
def test_a_network_with_complex_weights_on_disk(graph: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Mixed().double()
    net.w.data = net.w.data.to(torch.complex128)
    x = torch.randn(2, 4).double()
    lissom.neurons(net, x).scale_([torch.arange(8) % 2.0])
    small = lissom.shrink(net, x, as_graph=graph)
    assert small.shrinkage.removed == 4 and apart(net, small, x) < EXACT
    lissom.save(small, tmp_path / "small.safetensors")
    made = Mixed().double()
    made.w.data = made.w.data.to(torch.complex128)
    back = lissom.load(tmp_path / "small.safetensors", lambda: made)
    assert apart(small, back, x) == 0 and back.get_parameter("w").dtype == torch.complex128


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex32])
def test_complex_tensors_as_pairs(dtype: torch.dtype, tmp_path: Path) -> None:
    """As they were, and what says that they are complex is under the checksum."""
    path = tmp_path / "tensors.safetensors"
    real = torch.randn(3, 2, 2, dtype=torch.float64 if dtype.itemsize == 16 else torch.float16)
    tensors = {"z": torch.view_as_complex(real), "conj": torch.view_as_complex(real).conj()}
    tensors |= {"pairs": real}
    save_tensors(tensors, path, "lissom tensors 1")
    _, found = load_tensors(path, "lissom tensors 1")
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        kept = torch.view_as_real(found[name]) if found[name].is_complex() else found[name]
        own = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        assert torch.equal(kept, own)
    path.write_bytes(path.read_bytes().replace(b'[\\"z\\", ', b"[          "))
    with pytest.raises(RunError):
        load_tensors(path, "lissom tensors 1")

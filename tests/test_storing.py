"""Compressed networks on disk: bit by bit the same, small, and nothing else is believed."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import sampled
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lissom.compressions.compressions import compress
from lissom.compressions.factors import factorize
from lissom.compressions.forms import Dense, Factors, Form, Quantized, Sum
from lissom.compressions.low_rank import LowRank, RankSelection
from lissom.compressions.quantization import Codebook, ScaledTernary
from lissom.compressions.storing import COMPRESSED, load_compressed, save_compressed
from lissom.errors import CompressionError, RunError
from lissom.models import lenet300
from lissom.storage import pack, packing, unpack


def net(width: int = 20) -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, width), nn.BatchNorm1d(width), nn.Linear(width, 5))


def of(model: nn.Module, compression) -> dict[str, Form]:
    named = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    return dict(zip(named, compress(compression, list(named.values()), 1.0, None), strict=True))


def sparse(x: Tensor, keep: float) -> Dense:
    return Dense(x * (torch.rand(x.shape) < keep))


FORMS = {
    "codebook": lambda x: compress(Codebook(5), [x], 1.0, None)[0],
    "one value": lambda x: compress(Codebook(1), [x], 1.0, None)[0],
    "many values": lambda x: compress(Codebook(300), [x], 1.0, None)[0],
    "ternary": lambda x: compress(ScaledTernary(), [x], 1.0, None)[0],
    "long indices": lambda x: Quantized(torch.randn(9).to(x), torch.randint(9, x.shape)),
    "low rank": lambda x: compress(LowRank(2), [x], 1.0, None)[0],
    "rank 0": lambda x: compress(RankSelection(1e9), [x], 1.0, None)[0],
    "dense": lambda x: Dense(x.clone()),
    "half": lambda x: sparse(x, 0.5),
    "few": lambda x: sparse(x, 0.01),
    "none": lambda x: Dense(torch.zeros_like(x)),
    "sum": lambda x: Sum([sparse(x, 0.3), Sum([FORMS["codebook"](x), FORMS["low rank"](x)])]),
}


def same(a: Form, b: Form) -> None:
    assert type(a) is type(b)
    if isinstance(a, Sum):
        for x, y in zip(a.parts, b.parts, strict=True):
            same(x, y)
        return
    for name, x in vars(a).items():
        y = vars(b)[name]
        assert x.dtype == y.dtype and torch.equal(x, y) if isinstance(x, Tensor) else x == y


@sampled(24)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", FORMS)
def test_round_trip(tmp_path, kind, dtype):
    torch.manual_seed(0)
    model = net().to(dtype)
    model[1].running_mean.normal_()
    forms = {"0.weight": FORMS[kind](model[0].weight.detach())}
    save_compressed(model, forms, tmp_path / "net.safetensors")
    other = net().to(dtype)
    found = load_compressed(tmp_path / "net.safetensors", other)
    assert list(found) == ["0.weight"]
    same(forms["0.weight"], found["0.weight"])
    expected = model.state_dict() | {"0.weight": forms["0.weight"].value()}
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(found["0.weight"].value(), forms["0.weight"].value())


def test_lenet300_with_one_bit_each_is_a_25th(tmp_path):
    model = lenet300()
    dense = sum(p.nbytes for p in model.parameters())
    path = tmp_path / "net.safetensors"
    forms = of(model, Codebook(2))
    save_compressed(model, forms, path)
    assert path.stat().st_size <= dense / 25
    bits = sum(form.bits() for form in forms.values()) + 32 * 410
    assert bits / 8 <= path.stat().st_size <= bits / 8 + 1500
    other = lenet300()
    load_compressed(path, other)
    x = torch.rand(3, 784)
    for layer in ("fc1", "fc2", "fc3"):
        weight = f"{layer}.weight"
        assert torch.equal(other.get_parameter(weight), forms[weight].value())
        model.get_parameter(weight).data.copy_(forms[weight].value())
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize(("keep", "each"), [(0.01, 8), (0.5, 4)])
def test_sparse_tensors_are_small(tmp_path, keep, each):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400, bias=False))
    form = sparse(model[0].weight.detach(), keep)
    save_compressed(model, {"0.weight": form}, tmp_path / "a")
    count = int(form.tensor.count_nonzero())
    size = count * each + (120_000 // 8 if each == 4 else 0)
    assert size <= (tmp_path / "a").stat().st_size <= size + 800


def test_tied_weights_and_factors(tmp_path):
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 30))
    model[1].weight = model[0].weight
    forms = of(model, LowRank(2))
    save_compressed(model, forms, tmp_path / "a")
    other = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 30))
    with pytest.raises(RunError, match=r"1.weight was tied"):
        load_compressed(tmp_path / "a", other)
    other[1].weight = other[0].weight
    found = load_compressed(tmp_path / "a", other)
    assert torch.equal(other[1].weight, forms["0.weight"].value())
    made = factorize(other, found)
    x = torch.randn(4, 20)
    torch.testing.assert_close(made(x), other(x))
    assert isinstance(found["2.weight"], Factors) and type(made[2]) is nn.Sequential
    second = {"1.weight": forms["0.weight"]}
    save_compressed(model, second, tmp_path / "a")
    assert list(load_compressed(tmp_path / "a", other)) == ["1.weight"]
    with pytest.raises(CompressionError, match="one tied parameter"):
        save_compressed(model, second | {"0.weight": forms["0.weight"]}, tmp_path / "a")


def test_a_form_of_the_users_own_becomes_dense(tmp_path):
    class Ones(Form):
        def value(self):
            return torch.ones(20, 30)

        def bits(self):
            return 0

        def words(self):
            return "ones"

    save_compressed(net(), {"0.weight": Ones()}, tmp_path / "a")
    [form] = load_compressed(tmp_path / "a", net()).values()
    assert isinstance(form, Dense) and torch.equal(form.value(), torch.ones(20, 30))


def test_what_cannot_be_saved(tmp_path):
    model = net()
    with pytest.raises(CompressionError, match=r"Did you mean '0.weight'"):
        save_compressed(model, {"0.weigth": Dense(torch.ones(20, 30))}, tmp_path / "a")
    with pytest.raises(CompressionError, match=r"shape \[20, 30\], its form .* \[2\]"):
        save_compressed(model, {"0.weight": Dense(torch.ones(2))}, tmp_path / "a")
    with pytest.raises(CompressionError, match="float64"):
        save_compressed(model, {"0.weight": Dense(torch.ones(20, 30).double())}, tmp_path / "a")
    negative = Quantized(torch.ones(2), torch.full((20, 30), -1))
    with pytest.raises(CompressionError, match="negative"):
        save_compressed(model, {"0.weight": negative}, tmp_path / "a")
    with pytest.raises(RunError, match="no directory"):
        save_compressed(model, {}, tmp_path / "no" / "a")
    with pytest.raises(RunError, match="is a directory"):
        save_compressed(model, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def refused(path, model: nn.Module, match: str) -> None:
    """A RunError, and a model that was not touched."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RunError, match=match):
        load_compressed(path, model)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_files_that_are_none(tmp_path):
    path = tmp_path / "a"
    refused(path, net(), "there is no file")
    path.write_bytes(b"PK nothing")
    refused(path, net(), "not a readable safetensors file")
    save_file({"x": torch.ones(1)}, path)
    refused(path, net(), "says no format, this lissom reads 'lissom compressed 1' there")
    for record in ({"format": "lissom 1"}, [], 3):
        save_file({"x": torch.ones(1)}, path, {"lissom": json.dumps(record)})
        refused(path, net(), "this lissom reads")
    save_file({"x": torch.ones(1)}, path, {"lissom": "[" * 100_000})
    refused(path, net(), "not a readable safetensors file")
    save_file({"x": torch.ones(1)}, path, {"lissom": json.dumps({"format": COMPRESSED})})
    refused(path, net(), "tied: field required")


def test_other_models(tmp_path):
    path = tmp_path / "a"
    model = net()
    save_compressed(model, of(model, Codebook(2)), path)
    refused(path, net(21), r"0.weight had shape \[20, 30\], now \[21, 30\]")
    refused(path, nn.Sequential(nn.Linear(30, 20)), "only one of the two has")
    refused(path, nn.Sequential(*net(), nn.Linear(2, 2)), r"only one of the two has 3\.bias")
    refused(path, net().double(), "float32, now torch.float64")


def parts_of(path) -> tuple[dict[str, object], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(file.metadata()["lissom"])
    del record["crc32"]  # on purpose: what is damaged by chance is not looked at any further
    return record, tensors


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("codebook", {"indices": torch.zeros(5, dtype=torch.uint8)}),
        ("codebook", {"indices": torch.full((225,), 255, dtype=torch.uint8)}),
        ("codebook", {"indices": torch.zeros(225)}),
        ("codebook", {"codebook": torch.ones(6, 2)}),
        ("codebook", {"codebook": torch.tensor(1.0)}),
        ("codebook", {"codebook": torch.ones(5, dtype=torch.float64)}),
        ("codebook", {"codebook": None}),
        ("low rank", {"u": torch.ones(20, 3)}),
        ("low rank", {"v": torch.ones(2, 31)}),
        ("dense", {"numbers": torch.ones(30, 20)}),
        ("few", {"places": torch.full((1,), 600, dtype=torch.int32)}),
        ("few", {"places": torch.tensor([-1], dtype=torch.int32)}),
        ("few", {"places": torch.tensor([1, 2, 3], dtype=torch.int32)}),
        ("half", {"bitmap": torch.full((75,), 255, dtype=torch.uint8)}),
        ("half", {"bitmap": torch.zeros(74, dtype=torch.uint8)}),
        ("half", {"kind": "pickle"}),
        ("codebook", {"kind": "sum"}),
        ("codebook", {"indices ": "complex"}),
        ("many values", {"indices ": "uint8"}),
        ("sum", {"parts": []}),
    ],
)
def test_damage(tmp_path, kind, change):
    torch.manual_seed(0)
    path, model = tmp_path / "a", net()
    form = FORMS[kind](model[0].weight.detach())
    if kind == "few":
        form = Dense(torch.zeros(20, 30))
        form.tensor[3, 3] = 1.0
    save_compressed(model, {"0.weight": form}, path)
    load_compressed(path, net())
    record, tensors = parts_of(path)
    for name, value in change.items():
        if isinstance(value, Tensor):
            assert f"0.weight/{name}" in tensors
            tensors[f"0.weight/{name}"] = value
        elif value is None:
            del tensors[f"0.weight/{name}"]
        else:
            record["forms"]["0.weight"][name.strip()] = value
    save_file(tensors, path, {"lissom": json.dumps(record)})
    refused(path, net(), "damaged or of another network")


def test_every_cut_off_file_is_refused(tmp_path):
    path, model = tmp_path / "a", net()
    save_compressed(model, of(model, Codebook(2)), path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        refused(path, net(), "not a readable safetensors file")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_packing(data):
    bits = data.draw(st.integers(0, 20))
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    old, packing.PIECE = packing.PIECE, 8
    try:
        packed = pack(torch.tensor(numbers, dtype=torch.int32), bits)
        assert len(packed) == -(-len(numbers) * bits // 8)
        assert unpack(packed, bits, len(numbers), torch.int32).tolist() == numbers
    finally:
        packing.PIECE = old
    if packed.numel():
        with pytest.raises(ValueError, match="take"):
            unpack(packed[1:], bits, len(numbers), torch.int32)
    text = "".join(format(number, f"0{bits}b") for number in numbers) if bits else ""
    assert "".join(format(byte, "08b") for byte in packed.tolist()).startswith(text)

"""The example that makes radio vectors: its pure parts, and all of it where GNU Radio is."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lissom.data import load_modrec
from lissom.data.rml import CLASSES
from lissom.errors import DataError

EXAMPLE = Path(__file__).parents[1] / "examples" / "modrec"
PYTHON = "/usr/bin/python3"

sys.path.append(str(EXAMPLE))
generate = importlib.import_module("generate")
sources = importlib.import_module("sources")

SPEECH = (0.1 * np.random.default_rng(0).standard_normal(40_000)).astype(np.float32)
SENT = (*CLASSES, "USB")


class Air:
    """Receives white noise of power 4 as a signal, and notes what it was asked for."""

    def __init__(self, power: float = 4.0) -> None:
        self.power = power
        self.asked: list[tuple[str, int, float]] = []

    def __call__(
        self, sent: str, source: NDArray[Any], seed: int, noise: float
    ) -> NDArray[np.complex64]:
        self.asked.append((sent, seed, noise))
        random = np.random.default_rng([seed, *source[:100].astype(np.float32).view(np.uint32)])
        signal, hiss = (random.standard_normal((2, 5000, 2)) @ [1, 1j]) / np.sqrt(2)
        samples: NDArray[np.complex128] = self.power**0.5 * signal + noise * hiss
        return samples.astype(np.complex64)


def made(air: Air | None = None, **settings: Any) -> list[Any]:
    return list(generate.make(generate.Settings(**settings), SPEECH, air or Air()))


def assert_same(a: Any, b: Any) -> None:
    assert (a.name, a.snr) == (b.name, b.snr)
    np.testing.assert_array_equal(a.vectors, b.vectors)


# What is sent


@pytest.mark.parametrize("name", sources.ORDER)
def test_constellations_have_unit_power_and_neighbours_differ_in_one_bit(name: str) -> None:
    points = sources.constellation(name)
    assert len(points) == sources.ORDER[name]
    assert np.mean(np.abs(points) ** 2) == pytest.approx(1)
    assert np.mean(points) == pytest.approx(0)
    apart = np.abs(points[:, None] - points)
    apart[np.diag_indices(len(points))] = np.inf
    for word, distances in enumerate(apart):
        for other in np.flatnonzero(distances < distances.min() * 1.001):
            assert (word ^ int(other)).bit_count() == 1


def test_bits_become_words_with_the_first_bit_highest() -> None:
    bits = np.array([1, 1, 0, 0, 0, 1, 1, 0], np.uint8)
    assert sources.symbols(bits, 3).tolist() == [6, 1]  # two bits are left over
    assert sources.symbols(bits, 1).tolist() == bits.tolist()
    assert sources.symbols(np.ones(12, np.uint8), 6).tolist() == [63, 63]


@pytest.mark.parametrize("sent", SENT)
def test_a_run_sends_the_published_number_of_items(sent: str) -> None:
    source = sources.draw(sent, SPEECH, np.random.default_rng(3))
    if sent in sources.SPEECH:
        assert source.dtype == np.float32 and len(source) == 10_000
        return
    order = sources.ORDER.get(sent, 2)
    items = {"QAM16": 20_000, "QAM64": 30_000}.get(sent, 10_000)
    assert source.dtype == np.uint8 and len(source) == items // (order.bit_length() - 1)
    assert set(source.tolist()) == set(range(order))


def test_speech_on_one_sideband_has_unit_power_with_its_hilbert_transform() -> None:
    source = sources.draw("USB", SPEECH, np.random.default_rng(3))
    assert 2 * np.mean(source**2) == pytest.approx(1, rel=0.05)


def test_speech_may_be_as_short_as_a_run() -> None:
    source = sources.draw("WBFM", SPEECH[:10_000], np.random.default_rng(3))
    np.testing.assert_array_equal(source, SPEECH[:10_000])


# What is cut from what arrives


@pytest.mark.parametrize("length", [0, 177, 2_000, 26_648, 80_000])
@pytest.mark.parametrize("seed", range(5))
def test_cuts_lie_in_the_run_and_do_not_overlap(length: int, seed: int) -> None:
    starts = list(generate.cuts(length, np.random.default_rng(seed)))
    assert all(50 <= start <= 500 for start in starts[:1])
    assert starts or length <= 500 + 127
    assert all(start + 128 <= length for start in starts)
    steps = np.diff(starts)
    assert (steps >= 128).all() and (steps <= max(128, round(0.05 * length))).all()


def test_the_noise_of_labels() -> None:
    for label in (-20, -4, 0, 10, 18):
        published = generate.noise_amplitude(label, "published", 7.0)
        assert -20 * np.log10(published) == pytest.approx(2 * label)
        true = generate.noise_amplitude(label, "true", 7.0)
        assert 10 * np.log10(7.0 / true**2) == pytest.approx(label)


def test_cells_do_not_depend_on_other_cells_or_on_how_many_vectors_are_made() -> None:
    few = made(snr=(0, 0), per_cell=3)
    assert [cell.name for cell in few] == list(CLASSES)
    many = {(cell.name, cell.snr): cell for cell in made(snr=(-2, 2), per_cell=70)}
    for cell in few:
        other = many[cell.name, cell.snr]
        assert cell.vectors.shape == (3, 128) and other.vectors.shape == (70, 128)
        np.testing.assert_array_equal(cell.vectors, other.vectors[:3])


def test_seeds_repeat_and_differ() -> None:
    once, again, other = (made(snr=(0, 0), per_cell=2, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(once, again, other, strict=True):
        assert_same(a, b)
        assert not np.array_equal(a.vectors, c.vectors)


def test_channels_have_seeds_of_their_own_or_one_for_all() -> None:
    own, one = Air(), Air()
    cells = made(own, snr=(0, 2), per_cell=100)
    made(one, snr=(0, 2), per_cell=100, channel_seed=0x1337)
    seeds = [seed for _, seed, _ in own.asked]
    assert len(set(seeds)) == len(seeds) == cells[-1].runs[-1] + 1 > 22
    assert all(0 < seed < 2**31 - 8 for seed in seeds)
    assert {seed for _, seed, _ in one.asked} == {0x1337}


def test_true_labels_are_ratios_to_what_arrives() -> None:
    air = Air(power=9.0)
    made(air, snr=(10, 10), per_cell=2, snr_is="true")
    for (sent, seed, none), (sent_again, same, noise) in zip(
        air.asked[::2], air.asked[1::2], strict=True
    ):
        assert (sent, seed, none) == (sent_again, same, 0.0)
        assert 10 * np.log10(9.0 / noise**2) == pytest.approx(10, abs=0.2)


def test_true_labels_of_silence_are_those_of_unit_power() -> None:
    air = Air(power=0.0)
    made(air, snr=(10, 10), per_cell=2, snr_is="true")
    assert sorted({noise for _, _, noise in air.asked}) == pytest.approx([0, 10**-0.5])


@pytest.mark.parametrize("am_ssb", ["noise", "true"])
def test_am_ssb_is_sent_as_asked(am_ssb: str) -> None:
    air = Air()
    cells = made(air, snr=(0, 0), per_cell=1, am_ssb=am_ssb)
    assert [cell.name for cell in cells] == list(CLASSES)
    sent = [sent for sent, _, _ in air.asked]
    assert sent[CLASSES.index("AM-SSB")] == ("AM-SSB" if am_ssb == "noise" else "USB")
    assert ("USB" in sent) == (am_ssb == "true")


# Files


def test_the_loader_reads_the_file_with_its_runs(tmp_path: Path) -> None:
    cells = made(snr=(-4, 18), per_cell=40)
    file = tmp_path / "rml.npz"
    generate.write(file, lambda opened: generate.save_npz(cells, {"seed": 1}, opened))
    with np.load(file) as arrays:
        assert arrays["X"].dtype == np.float16 and arrays["X"].shape == (11 * 12 * 40, 2, 128)
        energy = (arrays["X"].astype(np.float64) ** 2).sum((1, 2))
        np.testing.assert_allclose(energy, 1, rtol=2e-3)
        assert json.loads(str(arrays["made_with"])) == {"seed": 1}
        runs = arrays["run"]
        assert (np.diff(runs) >= 0).all() and set(np.diff(runs).tolist()) == {0, 1}
    data = load_modrec(file=file)
    assert data.name == "rml2016-like-part" and data.names == CLASSES
    assert data.train_run is not None and data.test_run is not None
    assert not set(data.train_run.tolist()) & set(data.test_run.tolist())
    assert len(data.train_y) + len(data.test_y) == 11 * 12 * 40
    assert torch.bincount(torch.cat([data.train_y, data.test_y])).tolist() == [480] * 11
    assert sorted(set(data.test_snr.tolist())) == list(range(-4, 20, 2))


def test_the_loader_knows_of_repairs(tmp_path: Path) -> None:
    cells = made(snr=(0, 2), per_cell=40)
    found = {}
    for repaired in ((), ("snr_is",), ("am_ssb", "snr_is")):
        file = tmp_path / f"{len(repaired)}.npz"
        settings = generate.Settings(**dict.fromkeys(repaired, "true"))
        made_with = generate.asdict(settings)
        generate.write(file, lambda opened, m=made_with: generate.save_npz(cells, m, opened))
        data = load_modrec(file=file)
        found[data.name] = float((data.test_ratio / data.test_snr).nanmean())
    assert found == {
        "rml2016-like-part": 2,
        "rml2016-like-part with true SNR": 1,
        "rml2016-like-part with true AM-SSB and true SNR": 1,
    }
    shutil.copy(tmp_path / "1.npz", tmp_path / "am-ssb-true.npz")
    for file, told in (
        ("0.npz", "am-ssb-true.npz is rml2016-like-part with true SNR"),
        ("2.npz", "2.npz is"),
    ):
        with pytest.raises(DataError, match=told):
            load_modrec(file=tmp_path / file, am_ssb="true")


def test_the_loader_refuses_options_that_are_none(tmp_path: Path) -> None:
    cells = made(snr=(0, 0), per_cell=40)
    for options in ([1], "published"):
        file = tmp_path / f"{len(options)}.npz"
        generate.write(file, lambda opened, o=options: generate.save_npz(cells, o, opened))
        with pytest.raises(DataError, match=r"made_with is JSON of options, .*, found .*(1|publ)"):
            load_modrec(file=file)


def test_the_loader_reads_the_published_layout(tmp_path: Path) -> None:
    cells = made(snr=(-20, -4), per_cell=5)
    file = tmp_path / "rml.pkl"
    generate.write(file, lambda opened: generate.save_pickle(cells, opened))
    data = load_modrec(file=file, snr_min=-20)
    assert data.name == "rml2016.10a-layout" and data.train_run is None
    assert len(data.train_y) + len(data.test_y) == 11 * 9 * 5
    x = generate.unit_sum(cells[0].vectors)
    assert x.dtype == np.float32 and x.shape == (5, 2, 128)
    np.testing.assert_allclose(np.hypot(x[:, 0], x[:, 1]).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_write_that_stops_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def save(file: Any) -> None:
        file.write(b"half")
        raise stop

    with pytest.raises(stop):
        generate.write(tmp_path / "rml.npz", save)
    assert list(tmp_path.iterdir()) == []


# The command line


def test_what_is_made_without_options() -> None:
    given = generate.parse(["--out", "rml.npz"])
    default = generate.Settings()
    assert tuple(given.snr) == default.snr == (-4, 18)
    assert (given.seed, given.per_cell, given.pickle) == (2016, 1000, None)
    assert (given.snr_is, given.am_ssb, given.channel_seed) == ("published", "noise", None)
    assert generate.parse(["--out", "rml.npz", "--channel-seed", "0x1337"]).channel_seed == 4919
    assert generate.parse(["--out", "rml.npz", "--snr", "-20", "-20"]).snr == [-20, -20]


@pytest.mark.parametrize(
    "arguments",
    [
        "--per-cell 0",
        "--per-cell many",
        "--seed -1",
        "--snr 4 -4",
        "--snr 0 3",
        "--snr -102 18",
        "--snr-is half",
        "--am-ssb speech",
        "--channel-seed 0",
        "--channel-seed 2147483640",
        "--channel-seed theirs",
        "--pickle nowhere/rml.pkl",
        "--pickle rml.npz",
    ],
)
def test_mistakes_are_quoted(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    option, *values = arguments.split()
    with pytest.raises(SystemExit) as stopped:
        generate.parse(["--out", "rml.npz", option, *values])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"argument {option}: " in said and all(value in said for value in values)


def test_a_file_that_is_there_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rml.npz"
    file.write_bytes(b"mine")
    with pytest.raises(SystemExit):
        generate.parse(["--out", str(file)])
    assert f"{file} exists" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["generate.py", "--out", str(tmp_path / "rml.npz")])
    with pytest.raises(SystemExit, match="apt-get install gnuradio python3-scipy espeak-ng;"):
        generate.main()


# With GNU Radio

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs Debian's Python, where GNU Radio is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [PYTHON, "-B", *arguments], cwd=EXAMPLE, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    if not Path(PYTHON).exists() or not shutil.which("espeak-ng"):
        pytest.skip("GNU Radio or espeak-ng is not installed")
    try:
        run("-c", "import gnuradio, scipy")
    except AssertionError:
        pytest.skip("GNU Radio is not installed")
    yield run


def test_two_runs_make_the_same_bytes(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.npz" for name in ("once", "again")]
    for file in files:
        run("generate.py", "--out", str(file), "--per-cell", "3", "--snr", "0", "2")
    once, again = (file.read_bytes() for file in files)
    assert once == again
    data = load_modrec(file=files[0], split="cell", test_fraction=0.4)
    assert len(data.train_y) + len(data.test_y) == 66


MEASURE = """
import json
import numpy as np
from flowgraphs import receive
from generate import mean_power, noise_amplitude
from sources import CLASSES, draw

speech = (0.1 * np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
found = {}
for sent in (*CLASSES, "USB"):
    source = draw(sent, speech, np.random.default_rng(1))
    signal = receive(sent, source, 5, 0.0)
    amplitude = noise_amplitude(10, "true", mean_power(signal) or 1.0)
    noise = receive(sent, source, 5, amplitude) - signal
    settled = signal[600:]
    spectrum = np.abs(np.fft.fft(settled * np.hanning(len(settled)))) ** 2
    frequency = np.fft.fftfreq(len(settled), 1 / 200e3)
    # The carrier drifts by up to 500 Hz.
    upper, lower = (spectrum[sign * frequency > 600].sum() for sign in (1, -1))
    found[sent] = [mean_power(signal), mean_power(noise), float(upper), float(lower)]
print(json.dumps(found))
"""


def test_true_labels_are_measured_and_one_sideband_is_one(run: Run) -> None:
    found = json.loads(run("-c", MEASURE))
    assert found.keys() == set(SENT)
    for sent, (signal, noise, *_) in found.items():
        if sent == "AM-SSB":
            assert signal == 0 and noise == pytest.approx(0.1, rel=0.05)
            continue
        assert 10 * np.log10(signal / noise) == pytest.approx(10, abs=0.2), sent
    sides = {sent: 10 * np.log10(found[sent][2] / found[sent][3]) for sent in ("USB", "AM-DSB")}
    assert sides["USB"] > 30 and abs(sides["AM-DSB"]) < 10  # the fading tilts it

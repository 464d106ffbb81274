#!/usr/bin/python3
"""Vectors of radio signals in eleven modulations, in the manner of RML2016.10a.

    /usr/bin/python3 examples/modrec/generate.py --out rml.npz

GNU Radio sends random bits or speech through a channel with fading, drifts and noise; vectors of
128 samples are cut from what arrives. README.md names the parameters and quirks of the original.
"""

import argparse
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from sources import CLASSES, Floats, draw, speak

MODULES = {"gnuradio": "gnuradio", "scipy": "python3-scipy"}  # and their packages

Complex = NDArray[np.complex64]
Receive = Callable[[str, NDArray[np.generic], int, float], Complex]

SAMPLES = 128
FIRST = (50, 500)  # where in a run the first vector starts
STEP = 0.05  # of a run, the most from the start of a vector to the start of the next
SNR_STEP = 2  # dB
MOST_SNR = 100  # dB
MOST_SEED = 2**31 - 9  # of a channel, whose paths count on from it in 32 bits


@dataclass(frozen=True)
class Settings:
    """What is made.

    Attributes:
        seed: of bits, places in the speech, channels and cuts.
        per_cell: vectors of each class at each SNR.
        snr: the lowest and the highest label in dB.
        snr_is: "published", noise of the power 10^(−SNR/5) whatever arrives of the signal, or
            "true", 10^(−SNR/10) of the power that arrives.
        am_ssb: "noise", as published, or "true", speech on an upper sideband.
        channel_seed: of every run, or None for one of its own.
    """

    seed: int = 2016
    per_cell: int = 1000
    snr: tuple[int, int] = (-4, 18)
    snr_is: str = "published"
    am_ssb: str = "noise"
    channel_seed: int | None = None

    @property
    def snrs(self) -> range:
        return range(self.snr[0], self.snr[1] + 1, SNR_STEP)


@dataclass(frozen=True)
class Cell:
    """The vectors of a class at an SNR: complex64 [n, 128], and the number of the run of each."""

    name: str
    snr: int
    vectors: Complex
    runs: NDArray[np.int32]


def make(settings: Settings, speech: Floats, receive: Receive) -> Iterator[Cell]:
    """Cell by cell, class by class, by rising SNR; runs are counted through.

    What is in a cell does not depend on which others there are.

    Args:
        settings: what to make.
        speech: [n] at 44.1 kHz.
        receive: (what is sent, its source, seed of the channel, amplitude of the noise) to samples.
    """
    runs = 0
    for name in CLASSES:
        for snr in settings.snrs:
            cell = make_cell(settings, name, snr, speech, receive, runs)
            runs = int(cell.runs[-1]) + 1
            yield cell


def make_cell(
    settings: Settings, name: str, snr: int, speech: Floats, receive: Receive, first_run: int = 0
) -> Cell:
    """As many runs as it takes for the vectors of a class at an SNR."""
    sent = "USB" if name == "AM-SSB" and settings.am_ssb == "true" else name
    random = np.random.default_rng([settings.seed, 2, CLASSES.index(name), snr + MOST_SNR])
    vectors: list[Complex] = []
    runs: list[int] = []
    run = first_run
    while len(vectors) < settings.per_cell:
        source = draw(sent, speech, random)
        own_seed = int(random.integers(1, MOST_SEED + 1))
        seed = own_seed if settings.channel_seed is None else settings.channel_seed
        power = 1.0  # about what is sent
        if settings.snr_is == "true":
            power = mean_power(receive(sent, source, seed, 0.0)) or power
        received = receive(sent, source, seed, noise_amplitude(snr, settings.snr_is, power))
        starts = list(cuts(len(received), random))[: settings.per_cell - len(vectors)]
        vectors += [received[start : start + SAMPLES] for start in starts]
        runs += [run] * len(starts)
        run += 1
    return Cell(name, snr, np.array(vectors), np.array(runs, np.int32))


def noise_amplitude(snr: float, snr_is: str, power: float) -> float:
    """The amplitude of the noise that a label stands for.

    Args:
        snr: the label in dB.
        snr_is: "published" is 10^(−label/10), so that the ratio of a signal of unit power is
            2·label; "true" is √power·10^(−label/20).
        power: of the signal, which "published" ignores.
    """
    return 10 ** (-snr / 10) if snr_is == "published" else power**0.5 * 10 ** (-snr / 20)


def mean_power(signal: Complex) -> float:
    return float(np.mean(np.abs(signal.astype(np.complex128)) ** 2))


def cuts(length: int, random: np.random.Generator) -> Iterator[int]:
    """Where in a run of `length` samples the vectors start; they do not overlap."""
    start = int(random.integers(FIRST[0], FIRST[1] + 1))
    while start + SAMPLES <= length:
        yield start
        start += int(random.integers(SAMPLES, max(SAMPLES, round(STEP * length)) + 1))


def unit_energy(vectors: Complex) -> NDArray[np.float16]:
    """[n, 128] to [n, 2, 128], I and Q, Σ|x|² = 1."""
    norm = np.linalg.norm(vectors.astype(np.complex128), axis=1, keepdims=True)
    return _i_and_q(vectors / norm).astype(np.float16)


def unit_sum(vectors: Complex) -> NDArray[np.float32]:
    """[n, 128] to [n, 2, 128], I and Q, Σ|x| = 1, as published."""
    norm = np.abs(vectors.astype(np.complex128)).sum(1, keepdims=True)
    return _i_and_q(vectors / norm).astype(np.float32)


def _i_and_q(vectors: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.stack([vectors.real, vectors.imag], 1)


def save_npz(cells: Sequence[Cell], made_with: dict[str, Any], file: IO[bytes]) -> None:
    """X float16 [n, 2, 128], y, snr and run [n], classes [11], and JSON of how it was made."""
    sizes = [len(cell.vectors) for cell in cells]
    np.savez_compressed(
        file,
        X=np.concatenate([unit_energy(cell.vectors) for cell in cells]),
        y=np.repeat(np.array([CLASSES.index(cell.name) for cell in cells], np.uint8), sizes),
        snr=np.repeat(np.array([cell.snr for cell in cells], np.int8), sizes),
        run=np.concatenate([cell.runs for cell in cells]),
        classes=np.array(CLASSES),
        made_with=np.array(json.dumps(made_with)),
    )


def save_pickle(cells: Sequence[Cell], file: IO[bytes]) -> None:
    """{(modulation, SNR): float32 [n, 2, 128]}, as published; it has no runs."""
    pickle.dump({(cell.name, cell.snr): unit_sum(cell.vectors) for cell in cells}, file, protocol=2)


def write(path: Path, save: Callable[[IO[bytes]], None]) -> None:
    """The whole file or none: it has another name until it is complete."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            save(file)
        if path.exists():
            raise FileExistsError(f"{path} has appeared meanwhile; name another file")
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: something is wrong with it, said on stderr.
    """
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=_new_file, required=True, metavar="FILE.npz", help="with runs")
    add("--pickle", type=_new_file, metavar="FILE.pkl", help="the published layout too, no runs")
    add("--seed", type=_at_least(0), default=default.seed, help="of everything (%(default)s)")
    add(
        "--per-cell",
        type=_at_least(1),
        default=default.per_cell,
        metavar="N",
        help="vectors of each class at each SNR (%(default)s)",
    )
    add(
        "--snr",
        type=int,
        nargs=2,
        default=default.snr,
        metavar=("LOWEST", "HIGHEST"),
        help=f"labels in dB, every {SNR_STEP} dB (-4 18; published: -20 18)",
    )
    add(
        "--snr-is",
        choices=("published", "true"),
        default=default.snr_is,
        help="published: the label is about half of the ratio in dB; "
        "true: it is the ratio in dB in every run (%(default)s)",
    )
    add(
        "--am-ssb",
        choices=("noise", "true"),
        default=default.am_ssb,
        help="noise: no signal at all, as published; true: an upper sideband (%(default)s)",
    )
    add(
        "--channel-seed",
        type=_channel_seed,
        default=default.channel_seed,
        metavar="own|SEED",
        help="own: each run has its own fading and noise; 0x1337: all have the same, as published "
        "(own)",
    )
    given = parser.parse_args(arguments)
    low, high = given.snr
    if not -MOST_SNR <= low <= high <= MOST_SNR or (high - low) % SNR_STEP:
        parser.error(
            f"argument --snr: the lowest and the highest label within ±{MOST_SNR} dB, a multiple "
            f"of {SNR_STEP} dB apart, got {low} {high}"
        )
    if given.pickle is not None and given.pickle.resolve() == given.out.resolve():
        parser.error(f"argument --pickle: {given.pickle} is the file of --out")
    return given


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"a whole number ≥ {least}, got {text!r}")
        return value

    return number


def _channel_seed(text: str) -> int | None:
    if text == "own":
        return None
    try:
        seed = int(text, 0)
    except ValueError:
        seed = 0
    if not 1 <= seed <= MOST_SEED:
        raise argparse.ArgumentTypeError(
            f"own, or a whole number 1 … {MOST_SEED} such as 0x1337, got {text!r}"
        )
    return seed


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists; name another file or remove it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} to put {text} into")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"the folder {path.parent} cannot be written to")
    return path


def missing_packages() -> list[str]:
    """Debian's packages that are needed and not there."""
    missing = [package for module, package in MODULES.items() if not find_spec(module)]
    if not shutil.which("espeak-ng"):
        missing.append("espeak-ng")
    return missing


def main() -> None:
    given = parse()
    if missing := missing_packages():
        sys.exit(
            f"{sys.executable} lacks {', '.join(missing)}. On Debian: apt-get install "
            f"{' '.join(missing)}; then run this with /usr/bin/python3, which sees them"
        )
    from flowgraphs import VERSION, receive

    settings = Settings(
        given.seed,
        given.per_cell,
        tuple(given.snr),
        given.snr_is,
        given.am_ssb,
        given.channel_seed,
    )
    cells = []
    try:
        speech = speak(np.random.default_rng([settings.seed, 1]))
        for cell in make(settings, speech, receive):
            cells.append(cell)
            if cell.snr == settings.snrs[-1]:
                print(f"{cell.name}: {cell.runs[-1] + 1:,} runs so far", flush=True)
        made_with = {**asdict(settings), "gnuradio": VERSION, "numpy": np.__version__}
        write(given.out, lambda file: save_npz(cells, made_with, file))
        if given.pickle is not None:
            write(given.pickle, lambda file: save_pickle(cells, file))
    except (OSError, RuntimeError) as error:
        sys.exit(f"generate.py: {error}")


if __name__ == "__main__":
    main()

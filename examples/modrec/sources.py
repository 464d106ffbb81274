"""What is sent: random bits as points of a constellation, and synthetic speech.

Nothing here needs GNU Radio.
"""

import subprocess
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CLASSES = tuple("8PSK AM-DSB AM-SSB BPSK CPFSK GFSK PAM4 QAM16 QAM64 QPSK WBFM".split())
ORDER = {"BPSK": 2, "QPSK": 4, "8PSK": 8, "PAM4": 4, "QAM16": 16, "QAM64": 64}  # points
SPEECH = ("AM-DSB", "AM-SSB", "USB", "WBFM")  # USB is the repaired AM-SSB

# Bits, or samples of audio, that a run sends.
ITEMS = {"QAM16": 20_000, "QAM64": 30_000}
OTHER_ITEMS = 10_000

AUDIO_RATE = 44_100  # Hz
FLOOR = 1e-3  # noise of a recording, −60 dB
ROUNDS = 3  # how often each passage is read, some three minutes a round
VOICES = "en-us+m1 en-gb+f2 en-us+f4 en-gb+m7 en-gb-scotland+m3 en-us+m5 en-gb+f1 en-us+f3".split()
PASSAGES = Path(__file__).with_name("passages.txt")


def draw(sent: str, speech: Floats, random: np.random.Generator) -> NDArray[np.generic]:
    """What one run of the flow graph sends.

    Args:
        sent: one of CLASSES, or "USB".
        speech: at 44.1 kHz.
        random: draws the bits, or the place in the speech.

    Returns:
        uint8 [n] for digital modulations: numbers of points, or bits where there is no
        constellation. float32 [n] for analogue ones; for "USB" scaled so that the analytic signal
        of the whole speech has unit power.
    """
    items = ITEMS.get(sent, OTHER_ITEMS)
    if sent in SPEECH:
        start = int(random.integers(0, len(speech) - items + 1))
        passage = speech[start : start + items]
        if sent == "USB":
            passage = passage / np.sqrt(2 * np.mean(speech**2, dtype=np.float64))
        return passage.astype(np.float32)
    bits = random.integers(0, 2, items, dtype=np.uint8)
    return symbols(bits, ORDER[sent].bit_length() - 1) if sent in ORDER else bits


def symbols(bits: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Words of `width` bits as numbers, the first bit the highest; bits left over are dropped."""
    words = bits[: len(bits) // width * width].reshape(-1, width)
    return words @ (1 << np.arange(width, dtype=np.uint8)[::-1])


def constellation(name: str) -> NDArray[np.complex128]:
    """The point of each word of bits: mean |p|² = 1, and neighbours differ in one bit.

    Args:
        name: one of ORDER.

    Returns:
        [points], at the place of its word read as a number.
    """
    order = ORDER[name]
    if name in ("QPSK", "8PSK"):
        points = np.exp(2j * np.pi * (_place(order) + 0.5) / order)
    elif name in ("BPSK", "PAM4"):
        points = 2.0 * _place(order) - (order - 1) + 0j
    else:
        side = round(order**0.5)
        levels = 2.0 * _place(side) - (side - 1)
        points = (levels[:, None] + 1j * levels).ravel()
    unit: NDArray[np.complex128] = points / np.sqrt(np.mean(np.abs(points) ** 2))
    return unit


def _place(count: int) -> NDArray[np.int64]:
    """Where in a row of `count` each word stands when it is ordered by Gray's code."""
    places = np.arange(count)
    return np.argsort(places ^ (places >> 1))


def speak(random: np.random.Generator) -> Floats:
    """Some nine minutes of speech by espeak-ng: [n] at 44.1 kHz, |x| ≤ ½.

    It is 16-bit audio divided by 65535, as published. Every passage is read in each round, with
    another voice, speed, pitch and loudness, and a pause after it.

    Raises:
        RuntimeError: espeak-ng fails; the message is its own.
    """
    passages = PASSAGES.read_text(encoding="utf-8").split("\n\n")
    parts: list[Floats] = []
    for turn in range(ROUNDS):
        for i, text in enumerate(passages):
            voice = VOICES[(i + 3 * turn) % len(VOICES)]
            speed, pitch = int(random.integers(130, 190)), int(random.integers(30, 70))
            loudness = random.uniform(0.6, 1.0)
            pause = np.zeros(int(random.uniform(0.2, 1.0) * AUDIO_RATE), np.float32)
            audio = _read_aloud(" ".join(text.split()), voice, speed, pitch)
            parts += [audio * np.float32(loudness / np.abs(audio).max()), pause]
    speech = np.concatenate(parts)
    speech += FLOOR * random.standard_normal(len(speech), np.float32)
    published: Floats = (np.rint(32767 * speech.clip(-1, 1)) / 65535).astype(np.float32)
    return published


def _read_aloud(text: str, voice: str, speed: int, pitch: int) -> Floats:
    """A text as audio at 44.1 kHz; speed in words a minute, pitch 0 … 99."""
    from scipy.signal import resample_poly

    with TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(file)]
        done = subprocess.run([*command, text], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"espeak-ng with the voice {voice}: {done.stderr.strip()}")
        with wave.open(str(file)) as opened:
            rate = opened.getframerate()
            audio = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
    resampled: Floats = resample_poly(audio / np.float32(32768), AUDIO_RATE, rate)
    return resampled

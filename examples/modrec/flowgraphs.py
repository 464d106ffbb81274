"""One run: a transmitter and the channel behind it, as a flow graph of GNU Radio 3.10.

Parameters and the order of blocks are those of RML2016.10a's generator.
"""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from gnuradio import analog, blocks, channels, digital, filter, gr
from gnuradio.filter import firdes
from numpy.typing import NDArray
from sources import AUDIO_RATE, constellation

VERSION = gr.version()
RATE = 200e3  # Hz
SAMPLES_PER_SYMBOL = 8
ROLL_OFF = 0.35
ARMS = 32  # of the polyphase resampler
TAPS_PER_ARM = 11 * SAMPLES_PER_SYMBOL
HILBERT_TAPS = 401

Blocks = list[Any]  # GNU Radio brings no types


def receive(
    sent: str, source: NDArray[np.generic], seed: int, noise: float
) -> NDArray[np.complex64]:
    """What comes out of the channel at 200 kHz when `source` is sent.

    The same arguments give the same samples; another noise gives the same signal beside it.

    Args:
        sent: one of sources.CLASSES, or "USB" for AM-SSB as it should be.
        source: what `sources.draw` drew for it.
        seed: of the channel, 0 < seed < 2³¹ − 8.
        noise: its amplitude, the square root of its mean power; 0 is none.

    Returns:
        [n], n between 26,000 and 80,000.
    """
    feed = blocks.vector_source_f if source.dtype.kind == "f" else blocks.vector_source_b
    transmitter = TRANSMITTERS[sent]() if sent in TRANSMITTERS else _linear(sent)
    sink = blocks.vector_sink_c()
    graph = gr.top_block()
    graph.connect(feed(source.tolist()), *transmitter, _channel(seed, noise), sink)
    graph.run()
    return np.array(sink.data(), np.complex64)


def _channel(seed: int, noise: float) -> Any:
    """Fading over three paths, drifts of carrier and clock, and noise."""
    return channels.dynamic_channel_model(
        RATE,
        0.01,  # Hz, the standard deviation of a step of the sample rate, at each sample
        50.0,  # Hz, how far it goes
        0.01,  # Hz, the standard deviation of a step of the carrier, at each sample
        500.0,  # Hz, how far it goes
        8,  # sinusoids in the fading of a path
        1.0,  # Hz, Doppler
        True,  # the first path has a line of sight,
        4.0,  # with Rice's factor K
        [0.0, 0.9, 1.7],  # samples, the delays of the paths
        [1.0, 0.8, 0.3],  # their amplitudes
        8,  # taps
        noise,
        seed,
    )


def _linear(name: str) -> Blocks:
    taps = firdes.root_raised_cosine(ARMS, ARMS, 1.0, ROLL_OFF, ARMS * TAPS_PER_ARM)
    return [
        digital.chunks_to_symbols_bc(constellation(name).tolist(), 1),
        filter.pfb_arb_resampler_ccf(float(SAMPLES_PER_SYMBOL), taps),
    ]


def _cpfsk() -> Blocks:
    return [analog.cpfsk_bc(0.5, 1.0, SAMPLES_PER_SYMBOL)]  # index, amplitude


def _gfsk() -> Blocks:
    return [digital.gfsk_mod(SAMPLES_PER_SYMBOL, sensitivity=0.1, bt=ROLL_OFF, do_unpack=False)]


def _wbfm() -> Blocks:
    """Broadcast FM: 75 µs, 75 kHz. It comes at 220.5 kHz and is taken for 200 kHz."""
    with redirect_stdout(StringIO()):  # it prints the number of its taps
        return [analog.wfm_tx(audio_rate=AUDIO_RATE, quad_rate=5 * AUDIO_RATE)]


def _am_dsb() -> Blocks:
    return [_to_rate(), blocks.float_to_complex(), blocks.add_const_cc(1.0)]


def _am_ssb() -> Blocks:
    """As published: 1 + m times a real sine of 0 Hz, which is 0."""
    silence = blocks.multiply_const_ff(0.0)
    return [_to_rate(), blocks.add_const_ff(1.0), silence, filter.hilbert_fc(HILBERT_TAPS)]


def _usb() -> Blocks:
    """Upper sideband without a carrier: m + j·H(m)."""
    return [_to_rate(), filter.hilbert_fc(HILBERT_TAPS)]


def _to_rate() -> Any:
    return filter.mmse_resampler_ff(0.0, AUDIO_RATE / RATE)


TRANSMITTERS = {
    "AM-DSB": _am_dsb,
    "AM-SSB": _am_ssb,
    "CPFSK": _cpfsk,
    "GFSK": _gfsk,
    "USB": _usb,
    "WBFM": _wbfm,
}

"""Weights in a compressed form: the nearest ones, what they take on disk, and their files."""

from lissom.compressions.compressions import Additive, Compression
from lissom.compressions.factors import factorize
from lissom.compressions.forms import Dense, Factors, Form, Quantized, Sum
from lissom.compressions.low_rank import LowRank, RankSelection
from lissom.compressions.quantization import (
    Binary,
    Codebook,
    ScaledBinary,
    ScaledTernary,
)
from lissom.compressions.result import Compressed
from lissom.compressions.storing import load_compressed, save_compressed

__all__ = [
    "Additive",
    "Binary",
    "Codebook",
    "Compressed",
    "Compression",
    "Dense",
    "Factors",
    "Form",
    "LowRank",
    "Quantized",
    "RankSelection",
    "ScaledBinary",
    "ScaledTernary",
    "Sum",
    "factorize",
    "load_compressed",
    "save_compressed",
]

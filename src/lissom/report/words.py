"""What the words of the pages mean, for people who see one of these pages for the first time."""

from collections.abc import Iterable

from lissom.curves.point import AXES

WORDS = {
    "knee": "Where the curve bends most: of all networks on the front the one that is furthest "
    "below a straight line from the largest to the smallest, counted in halvings of the size and "
    "doublings of the error. Larger ones gain little, smaller ones lose quickly.",
    "front": "The networks that are worth having: no other is both smaller and better, on held-out "
    "(validation) data.",
    "dominated": "Another network is at least as small and at least as good, on held-out "
    "(validation) data.",
    "from scratch": "Trained from an untrained network at this strength alone, as a check. All "
    "others go on from the network before them, from dense to empty.",
    "cut": "A part of the dense network, whose training was one of all sizes, with the same "
    "weights.",
    "fine-tuned": "A part of the dense network, whose training was one of all sizes, that was "
    "trained on for a few epochs.",
    "halving": "Half the size. From a network on the curve to one of half its size, the error "
    "grows by about this much.",
    "points": "Percentage points: from 97.0 % to 96.5 % are 0.5 points.",
    "dense": "The network before anything was removed, trained in the same way.",
    "strength": "How hard training pushes weights to zero; it is varied along the curve.",
    "seed": "The number from which random weights and the order of examples are drawn. Several "
    "seeds show how much of a difference is chance.",
    "band": "The mean over the seeds, plus and minus one standard deviation.",
    "validation": "On examples that were held out of training. The front, the knee and the answers "
    "are decided by it.",
    "test": "On examples that nothing was trained on or chosen by.",
    "removed": "How much smaller the size is that is chosen above the picture, against the dense "
    "network.",
    "reads": "A unit reads an input if its weight for it is not zero. Inputs that nothing reads "
    "can be left out.",
    "file": "The shrunk network's safetensors file, with zeros that could not be removed stored "
    "as numbers: what is downloaded.",
    "epoch": "The epoch whose network was kept: the last one, or the best on held-out data.",
    "zeros": "Weights that are exactly 0, so that leaving them out changes nothing.",
    **{axis: f"{meaning[0].upper()}{meaning[1:]}." for axis, meaning in AXES.items()},
}
OF_CURVES = (
    "knee", "halving", "points", "dense", "removed", "front", "dominated", "from scratch", "seed",
    "band", "strength", "validation", "test", "reads",
)  # fmt: skip
OF_RUNS = ("validation", "test", "nonzeros", "zeros", "file", "epoch")


def glossary(words: Iterable[str]) -> dict[str, str]:
    """What these words mean, in the order in which they are given."""
    return {word: WORDS[word] for word in words}

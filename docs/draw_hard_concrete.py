"""Draw the hard-concrete law, as in Louizos, Welling & Kingma 2018, figure 2.

python docs/draw_hard_concrete.py, and every build of the documentation, writes
docs/figures/hard-concrete.svg.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from lissom.hard_concrete import HardConcrete

FIGURE = Path(__file__).parent / "figures" / "hard-concrete.svg"
CONCRETE, HARD = "#9e9e9e", "#00897b"
DRAWS = 200_000


def densities(axes: Axes) -> None:
    """(a) The binary concrete density at log α = 0, β = 0.5, and what stretching makes of it."""
    law = HardConcrete(beta=0.5)
    torch.manual_seed(0)
    z = law.sample(torch.zeros(DRAWS))
    s = (torch.linspace(0.002, 0.998, 500)).double()
    odds = (s / (1 - s)) ** -law.beta
    density = law.beta * odds / (s * (1 - s) * (1 + odds) ** 2)
    axes.plot(s, density, color=CONCRETE, label="binary concrete")
    inside = z[(z > 0) & (z < 1)]
    weight = torch.full_like(inside, 40 / DRAWS)
    axes.hist(inside, bins=40, range=(0, 1), weights=weight, color=HARD, alpha=0.5)
    for at, chance in ((0, (z == 0).float().mean()), (1, (z == 1).float().mean())):
        axes.bar(at, float(chance) * 10, width=0.03, color=HARD)
        axes.annotate(
            f"P = {float(chance):.2f}", (abs(at - 0.03), float(chance) * 10 + 0.1),
            ha="right" if at else "left", fontsize=8,
        )  # fmt: skip
    axes.bar(0.5, 0, color=HARD, alpha=0.5, label="hard concrete, and its two atoms")
    axes.set(xlabel="z", ylabel="density", ylim=(0, 4), title="log α = 0, β = 0.5")
    axes.legend(frameon=False, fontsize=8, loc="upper center")


def gates(axes: Axes) -> None:
    """(b) The mean gate and the deterministic ones, by log α."""
    law = HardConcrete()
    log_alpha = torch.linspace(-7, 7, 400).double()
    lines = {
        "mean": ("-", HARD), "published": ("--", "#ef6c00"),
        "median": (":", "#5e35b1"), "mode": ("-.", CONCRETE),
    }  # fmt: skip
    for name, (style, colour) in lines.items():
        axes.plot(log_alpha, law.test_gate(log_alpha, name), style, color=colour, label=name)
    axes.plot(log_alpha, law.p_nonzero(log_alpha), color="black", lw=0.8, label="P(z ≠ 0)")
    axes.set(xlabel="log α", ylabel="gate", title="β = 2/3, γ = −0.1, ζ = 1.1")
    axes.legend(frameon=False, fontsize=8)


def draw(path: Path = FIGURE) -> None:
    """Write the figure; the same bytes whenever nothing has changed."""
    with plt.rc_context({"svg.hashsalt": "lissom", "svg.fonttype": "none"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        densities(left)
        gates(right)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw()

"""Inputs changed a little so that a network errs, and how often that succeeds."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, is_number, whole
from lissom.errors import AttackError, nearest
from lissom.running import Inputs, evaluating, run

Norm = Literal["linf", "l2"]
Attack = Literal["fgsm", "pgd"]
Clip = tuple[float, float] | None


@as_annotated(AttackError)
def fgsm(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    radius: float,
    *,
    clip: Clip = (0.0, 1.0),
    batch_size: int = 2000,
) -> Tensor:
    """x′ = clip(x + ε·sign ∇ₓL(f(x), y)), the fast gradient sign method.

    One step to a corner of the ball ‖x′ − x‖∞ ≤ ε, where the cross-entropy L would be greatest if
    it were linear. The network is in evaluation mode meanwhile, and left as it was found.

        fgsm(net, data.test_x, data.test_y, radius=0.1)    # pixels in [0, 1] change by up to 0.1

    Args:
        network: gives logits [n, classes].
        x: inputs [n, …].
        y: their classes [n].
        radius: ε ≥ 0, in the units of x.
        clip: the least and the largest number an input may hold; None for any.
        batch_size: how many inputs the network gets at a time.

    Returns:
        Inputs like x.

    Raises:
        AttackError: for shapes or numbers that cannot be, or an x that is not within `clip`.

    Source: Goodfellow et al. 2015, chapter 4.
    """
    _check(x, y, radius, clip, batch_size)
    with evaluating(network):
        signs = [
            _look(network, inputs, classes)[0].sign()
            for inputs, classes in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]
    return _clipped(x.detach() + radius * torch.cat(signs), clip)


@as_annotated(AttackError, "norm", "steps", "restarts")
def pgd(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    radius: float,
    *,
    norm: Norm = "linf",
    steps: int = 40,
    step: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    clip: Clip = (0.0, 1.0),
    batch_size: int = 2000,
) -> Tensor:
    """x′ₜ₊₁ = Π(x′ₜ + α·u), projected gradient descent on −L: the worst input on its way.

    Π projects to the ball ‖x′ − x‖ ≤ ε and to `clip`; u is sign ∇L in the norm ‖·‖∞ and ∇L/‖∇L‖₂ in
    ‖·‖₂, for each example separately. It begins at random points of the ball. Of x and all points
    it visits, it returns for each example the one where another class leads by the most, that is
    with the greatest max f_c(x′) − f_y(x′) over c ≠ y; so more restarts, or more steps of the same
    size, never find less.

        pgd(net, x, y, radius=2.0, norm="l2", restarts=5)

    Args:
        network: gives logits [n, classes].
        x: inputs [n, …].
        y: their classes [n].
        radius: ε ≥ 0, in the units of x: how far each number may go ("linf"), or the Euclidean
            length of what is added to an example ("l2").
        norm: "linf" or "l2".
        steps: how many, ≥ 1.
        step: α > 0, in the units of x; 2.5·ε/steps if not given, which reaches any point of the
            ball from any other.
        restarts: from how many random points, ≥ 1.
        seed: of these points, whatever the batch size.
        clip: the least and the largest number an input may hold; None for any.
        batch_size: how many inputs the network gets at a time.

    Returns:
        Inputs like x.

    Raises:
        AttackError: for shapes, numbers or a norm that cannot be, or an x that is not within
            `clip`.

    Source: Madry et al. 2018, chapter 2.1; chapter 5 for the default step.
    """
    _check(x, y, radius, clip, batch_size)
    if norm not in ("linf", "l2"):
        raise AttackError(f'norm is "linf" or "l2", got {norm!r}')
    for name, number in (("steps", steps), ("restarts", restarts)):
        if not whole(number, least=1):
            raise AttackError(f"{name} is a whole number ≥ 1, got {number!r}")
    if step is not None and not 0 < step < math.inf:
        raise AttackError(f"step is a number > 0 in the units of x, got {step!r}")
    length = 2.5 * radius / steps if step is None else step
    generator = torch.Generator().manual_seed(seed)
    batches = [slice(i, i + batch_size) for i in range(0, len(x), batch_size)]
    worst = _Worst(network, x.detach(), y)
    with evaluating(network):
        for rows in batches:
            worst.look(worst.x[rows], rows)
        for _ in range(restarts):
            noise = _noise(worst.x, radius, norm, generator)
            for rows in batches:
                centre = worst.x[rows]
                now = _clipped(centre + noise[rows], clip)
                for _ in range(steps):
                    moved = now + length * _unit(worst.look(now, rows), norm)
                    now = _clipped(centre + _within(moved - centre, radius, norm), clip)
                worst.look(now, rows)
    return worst.found


ATTACKS: dict[str, Callable[..., Tensor]] = {"fgsm": fgsm, "pgd": pgd}


@as_annotated(AttackError, "attack")
def adversarial_accuracy(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    attack: Attack = "fgsm",
    *,
    clip: Clip = (0.0, 1.0),
    batch_size: int = 2000,
    **options: Any,
) -> dict[float, float]:
    """The fraction of inputs that are classified right even after an attack, for each radius.

    Inputs that are classified wrong without an attack count as wrong at every radius. What
    "pgd" finds within a radius lies within all larger ones, so its accuracies do not rise with the
    radius; "fgsm" looks at one point alone, and may miss at a larger radius.

        adversarial_accuracy(net, x, y, (0, 0.05, 0.1), "pgd", norm="linf", restarts=3)

    Args:
        network: gives logits [n, classes].
        x: inputs [n, …].
        y: their classes [n].
        radii: in the units of x; 0 is the accuracy without an attack.
        attack: "fgsm" or "pgd".
        clip: the least and the largest number an input may hold; None for any.
        batch_size: how many inputs the network gets at a time.
        options: other arguments of the attack.

    Returns:
        {radius: accuracy in [0, 1]}, in the order of `radii`. It is an upper bound of the accuracy
        under the worst change of this size.

    Raises:
        AttackError: for an unknown attack, no radii, and whatever the attack cannot do.
    """
    if attack not in ATTACKS:
        raise AttackError(f"there is no attack {attack!r}.{nearest(str(attack), ATTACKS)}")
    sizes = [float(radius) for radius in radii]
    if not sizes:
        raise AttackError("radii holds at least one number, such as (0, 0.1), got none")
    for radius in sizes:
        _check(x, y, radius, clip, batch_size)
    right = _right(network, x, y, batch_size)
    inputs, classes = x[right], y[right]
    held = torch.ones_like(classes, dtype=torch.bool)
    found: dict[float, float] = {}
    for radius in sorted(sizes):
        changed = inputs
        if radius > 0 and len(inputs):
            given = {**options, "clip": clip, "batch_size": batch_size}
            changed = ATTACKS[attack](network, inputs, classes, radius, **given)
        now = _right(network, changed, classes, batch_size)
        held = now & held if attack == "pgd" else now
        found[radius] = int(held.sum()) / len(y)
    return {radius: found[radius] for radius in sizes}


class _Worst:
    """For each input the worst point of the ball that was visited."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor) -> None:
        self.network, self.x, self.y = network, x, y
        self.found = x.clone()
        self.lead = x.new_full((len(x),), -math.inf)

    def look(self, inputs: Tensor, rows: slice) -> Tensor:
        """Keep which of `inputs` are worse than what was found, and return their gradients."""
        gradient, lead = _look(self.network, inputs, self.y[rows])
        worse = lead > self.lead[rows]
        self.found[rows][worse] = inputs[worse]  # a slice is a view: this writes through it
        self.lead[rows][worse] = lead[worse]
        return gradient


def _look(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of ∇ₓL for each example, [n, …], and max f_c − f_y over c ≠ y, [n].

    With m = log Σ_{c≠y} exp f_c − f_y, the cross-entropy is L = log(1 + eᵐ), so ∇L = σ(m)·∇m. The
    direction is that of ∇m, which exists even where a network is so sure that L and ∇L round to 0.
    """
    with torch.enable_grad():
        inputs = x.detach().requires_grad_()
        logits = _logits(network, inputs, y)
        own = logits.gather(1, y[:, None]).squeeze(1)
        others = logits.scatter(1, y[:, None], -math.inf)
        gap = (others.logsumexp(1) - own).sum()
        if gap.requires_grad:  # materialized: an empty network reads none of its inputs
            [gradient] = torch.autograd.grad(gap, inputs, materialize_grads=True)
        else:
            gradient = torch.zeros_like(x)
    return gradient, (others.amax(1) - own).detach().to(x.dtype)


@torch.no_grad()
def _right(network: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Whether each input is classified right, bool [n]."""
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    with evaluating(network):
        right = [
            _logits(network, inputs, classes).argmax(1) == classes for inputs, classes in parts
        ]
    return torch.cat(right)


def _logits(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """[n, classes]."""
    logits = run(network, Inputs((x,)))
    classes = max(2, int(y.max()) + 1 if len(y) else 0)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != len(x):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise AttackError(f"a network gives logits [{len(x)}, classes] here, and gave {shape}")
    if logits.shape[1] < classes:
        raise AttackError(
            f"{classes} classes take logits [n, {classes}] or more, and the network gives "
            f"{list(logits.shape)}"
        )
    return logits


def _check(x: Tensor, y: Tensor, radius: float, clip: Clip, batch_size: int) -> None:
    if not x.is_floating_point() or x.ndim < 2 or not len(x):
        raise AttackError(
            f"x holds n ≥ 1 inputs of floating-point numbers, got {list(x.shape)} of {x.dtype}"
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64 or int(y.min()) < 0:
        raise AttackError(
            f"y holds a class ≥ 0 for each of {len(x)} inputs, int64 [{len(x)}], got "
            f"{list(y.shape)} of {y.dtype}"
        )
    if not is_number(radius) or not 0 <= radius < math.inf:
        raise AttackError(f"a radius is a number ≥ 0 in the units of x, got {radius!r}")
    if not whole(batch_size, least=1):
        raise AttackError(f"batch_size is a whole number ≥ 1, got {batch_size!r}")
    if clip is None:
        return
    least, most = clip
    low, high = x.min(), x.max()  # tensors: 0.1 is compared as the 0.1 of float32
    if not least <= low <= high <= most:
        raise AttackError(
            f"x goes from {low:g} to {high:g}, which is not within clip={clip}: give the range of "
            "the data, or None"
        )


def _clipped(x: Tensor, clip: Clip) -> Tensor:
    return x if clip is None else x.clamp(*clip)


def _within(change: Tensor, radius: float, norm: Norm) -> Tensor:
    """The nearest change [n, …] whose norm is at most the radius."""
    if norm == "linf":
        return change.clamp(-radius, radius)
    size = change.flatten(1).norm(dim=1).clamp(min=torch.finfo(change.dtype).tiny)
    return change * _like(change, (radius / size).clamp(max=1))


def _unit(gradient: Tensor, norm: Norm) -> Tensor:
    """Of all steps of norm 1 the one along which a linear loss grows most; 0 for a gradient 0."""
    if norm == "linf":
        return gradient.sign()
    exact = gradient.double()  # in float32 the squares of small numbers are 0
    size = exact.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    return (exact / _like(exact, size)).to(gradient.dtype)


def _noise(x: Tensor, radius: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Changes [n, …] that are uniform in the ball."""
    if norm == "linf":
        sides = torch.rand(x.shape, generator=generator, dtype=x.dtype)
        return radius * (2 * sides - 1).to(x.device)
    directions = _unit(torch.randn(x.shape, generator=generator, dtype=x.dtype), norm)
    volume = torch.rand(len(x), generator=generator, dtype=x.dtype)
    lengths = volume ** (1 / x[0].numel())  # the fraction of the ball within a length is length^d
    return (radius * directions * _like(x, lengths)).to(x.device)


def _like(x: Tensor, numbers: Tensor) -> Tensor:
    """Numbers [n], with the dims of x: [n, 1, …]."""
    return numbers.reshape(-1, *[1] * (x.ndim - 1))

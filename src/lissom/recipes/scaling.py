"""A recipe that is trained for more or fewer epochs: its whole schedule gets longer or shorter."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from lissom.arguments import fits, whole
from lissom.errors import LissomError
from lissom.methods import method_named

FROM = ("cosine_from", "average_from", "patience_from", "warmup")  # of [train]
LEAST = {"dense": 2, "epochs": 2, "fine_tune": 1}  # of [path]
QUICK = Fraction(1, 10)
QUICK_POINTS = 5
TEACHER = ("teacher", "recipe")


def scale(table: dict[str, Any], epochs: int) -> list[str]:
    """Train a recipe, as a TOML file has it, for so many epochs, with all times in proportion.

    Times in steps stay, and so do those of torch's schedulers, of which only they know which of
    their arguments are times. What is no recipe is left to those who read it.

    Returns:
        What changed: "method.start 10 → 1".
    """
    train = table["train"]
    ratio = Fraction(epochs, train["epochs"])
    before = dict(_leaves(table))
    train["epochs"] = epochs
    for name in FROM:
        if fits(train.get(name), int):
            train[name] = int(train[name] * ratio)
    _scale_milestones(train, ratio)
    method = table.get("method")
    if isinstance(method, dict) and isinstance(method.get("name"), str):
        try:
            kind = method_named(method["name"])
        except LissomError:
            return []  # told by those who read it
        method |= kind.options_type.scaled(method, ratio)
    for ramp in [*_ramps(table.get("penalties")), *_ramps(method)]:
        if isinstance(ramp["epochs"], int | float):
            ramp["epochs"] = round(float(ramp["epochs"] * ratio), 6)
    path: Any = table.get("path")
    for name, least in LEAST.items() if isinstance(path, dict) else ():
        if fits(path.get(name), int) and path[name]:
            path[name] = max(least, int(path[name] * ratio))
    after = dict(_leaves(table))
    notes = [
        f"{key} {before.get(key, 'unset')} → {after.get(key, 'none')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    return [*notes, *(["train.scheduler stays as it is"] if train.get("scheduler") else [])]


def rescale(
    table: Any,
    whole: Any,
    changed: Sequence[tuple[str | int, ...]],
    *,
    quick: bool,
    epochs: int | None = None,
) -> list[str]:
    """Let the schedule of a recipe, and that of its teacher, follow their epochs.

    Who sets times of a recipe beside train.epochs has them as they are.

    Args:
        table: of the recipe with keys changed; in place.
        whole: as it was.
        changed: which keys.
        quick: a trial, of a tenth of the epochs, a few points and one seed.
        epochs: of the recipe, whatever else is said.

    Returns:
        What changed: "method.start 10 → 1".
    """
    notes: list[str] = []
    for prefix in ((), TEACHER):
        own, old = _at(table, prefix), epochs_of(_at(whole, prefix))
        now = epochs_of(own)
        if old is None or now is None:
            continue
        keys = [key[len(prefix) :] for key in changed if key[: len(prefix)] == prefix]
        asked = ("train", "epochs") in keys
        if epochs is not None and not prefix:
            now = epochs
        elif quick and not asked:
            now = ceil(old * QUICK)
        elif not asked or any(map(_is_time, keys)):
            continue
        own["train"]["epochs"] = old
        path = _quicken(own) if quick else []
        notes += [".".join((*prefix, note)) for note in (*scale(own, now), *path)]
    return notes


def _at(table: Any, prefix: tuple[str, ...]) -> Any:
    for key in prefix:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _quicken(table: dict[str, Any]) -> list[str]:
    """Fewer points and one seed, where the recipe has a curve; the epochs are `scale`'s."""
    path = table.get("path")
    if not isinstance(path, dict):
        return []
    before: dict[str, Any] = {"points": path.get("points", 12), "seeds": path.get("seeds", 3)}
    after = {"points": QUICK_POINTS, "seeds": 1}
    changed = {name: n for name, n in after.items() if fits(before[name], int) and before[name] > n}
    path |= changed
    return [f"path.{name} {before[name]} → {n}" for name, n in changed.items()]


def _is_time(key: tuple[str | int, ...]) -> bool:
    """Whether a key of --set is one that `scale` would change, but for train.epochs itself."""
    match key:
        case ("train", "epochs"):
            return False
        case ("train", name, *_):
            return name in (*FROM, "milestones")
        case ("method" | "path" | "penalties", *rest):
            return not rest or rest[-1] not in ("only", "without", "metric", "name")
    return False


def epochs_of(table: Any) -> int | None:
    """The epochs that a recipe says, if they are some."""
    train = table.get("train") if isinstance(table, Mapping) else None
    epochs = train.get("epochs") if isinstance(train, Mapping) else None
    return epochs if whole(epochs, least=1) else None


def _scale_milestones(train: dict[str, Any], ratio: Fraction) -> None:
    """Those that come before the first epoch has ended, or together, are no more."""
    given = train.get("milestones")
    if isinstance(given, dict):
        scaled = {k: max(1, int(v * ratio)) if fits(v, int) else v for k, v in given.items()}
        train["milestones"] = scaled
    elif isinstance(given, list) and all(fits(one, int) for one in given):
        scaled_list = [int(m * ratio) for m in given]
        train["milestones"] = [m for m in dict.fromkeys(scaled_list) if m]
        if not train["milestones"]:
            del train["milestones"]
            train.pop("gamma", None)


def _ramps(value: Any) -> Iterator[dict[str, Any]]:
    """The pieces of schedules: tables with an end and epochs, in a list."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _ramps(inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict) and "end" in inner and "epochs" in inner:
                yield inner
            else:
                yield from _ramps(inner)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all plain values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{i}")
    else:
        yield path, value

"""Give the records of curves the names of lissom 0.2; used once, on records of lissom 0.1.

    python benchmarks/convert_curves.py

Rewrites benchmarks/results/curves-*.json and ahmed-*.json in place.
"""

import json
import re
from pathlib import Path
from typing import Any

from lissom.path.storing import FORMAT
from lissom.recipes import read_recipe
from lissom.recipes.paths import path_of, strength_name

RESULTS = Path(__file__).parent / "results"
AXES = {"weights": "nonzeros", "shrunk_weights": "weights"}
KEYS = {"price": "strength", "cold": "from_scratch"}
COMMAND = {
    "--cold": "--from-scratch",
    "path.prices=": "path.strengths=",
    "path.price=": "path.strength=",
    "path.heal=": "path.fine_tune=",
}


def main() -> None:
    """Convert all records."""
    for path in sorted([*RESULTS.glob("curves-*.json"), *RESULTS.glob("ahmed-*.json")]):
        record = json.loads(path.read_text())
        new = curves(record) if "curves" in record else ahmed(record)
        path.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n")
        print(path.name)


def curves(record: dict[str, Any]) -> dict[str, Any]:
    """A record of curves.py."""
    entries = [
        {
            **entry,
            "command": command(entry["command"]),
            "path": arguments(entry["path"], command(entry["command"])),
            "points": [point(one) for one in entry["points"]],
            "classes": {**entry["classes"], "points": by_folder(entry["classes"]["points"])},
        }
        for entry in record["curves"]
    ]
    return {**record, "axis": AXES.get(record["axis"], record["axis"]), "curves": entries}


def ahmed(record: dict[str, Any]) -> dict[str, Any]:
    """A record of ahmed.py."""
    return {
        **record,
        "inputs": [renamed(one, KEYS) for one in record["inputs"]],
        "patterns": [renamed(one, KEYS) for one in record["patterns"]],
        "settings": {name: renamed(one, KEYS) for name, one in record["settings"].items()},
        "attacks": {**record["attacks"], "pgd": by_folder(record["attacks"]["pgd"])},
    }


def command(old: str) -> str:
    """The command line that makes the same curve now."""
    for before, after in COMMAND.items():
        old = old.replace(before, after)
    return old


def arguments(old: dict[str, Any], made_by: str) -> dict[str, Any]:
    """path.json, with what the strength of this recipe is called."""
    recipe = made_by.split()[2]
    chosen = re.search(r"path\.strength=(\S+)", made_by)
    spec = path_of(read_recipe(recipe))
    if chosen:
        spec = spec.model_copy(update={"strength": chosen[1].strip("'\"")})
    kept = {key: old[key] for key in ("points", "seeds", "latency", "test")}
    return {
        "format": FORMAT,
        "strengths": old["prices"],
        **kept,
        "strength_name": strength_name(spec),
        "parameters": old["network"],
    }


def point(old: dict[str, Any]) -> dict[str, Any]:
    """point.json."""
    new = renamed(old, KEYS)
    new["folder"] = folder(old["folder"])
    new["origin"] = None if old["origin"] is None else folder(old["origin"])
    new["sizes"] = None if old["sizes"] is None else renamed(old["sizes"], AXES)
    return new


def by_folder(old: dict[str, Any]) -> dict[str, Any]:
    """{"seed0/strength-0.1": …}."""
    return {folder(name): value for name, value in old.items()}


def folder(old: str) -> str:
    """The folder of a point."""
    return re.sub(r"\bcold-", "scratch-", re.sub(r"\bprice-", "strength-", old))


def renamed(old: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same values under new keys, in the same order."""
    return {names.get(key, key): value for key, value in old.items()}


if __name__ == "__main__":
    main()

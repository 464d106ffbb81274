"""Where a record comes from: the code that made it, the machine, and what else ran there.

A record keeps under "code" the files that it speaks of and their digest, and tables.py tells from
them whether the code has changed since. Comments, docstrings and empty lines do not count.
"""

import ast
import hashlib
import io
import json
import os
import platform
import tokenize
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

ROOT = Path(__file__).parents[1]
IDLE = 0.5  # processes that want a core, beside our own, under which times are worth keeping
# What a training's numbers depend on.
TRAINING = (
    "src/lissom/methods src/lissom/penalties src/lissom/groups src/lissom/training "
    "src/lissom/recipes src/lissom/models src/lissom/data src/lissom/compressions "
    "src/lissom/preconditioners.py src/lissom/rescaling.py src/lissom/selection.py "
    "src/lissom/schedules.py src/lissom/hard_concrete.py"
).split()
# What removing units depends on.
REMOVING = (
    "src/lissom/coupling src/lissom/shrinking src/lissom/groups src/lissom/operators.py "
    "src/lissom/measuring/units.py"
).split()


def provenance(
    code: Iterable[str], packages: Iterable[str] = ("torch", "numpy"), device: str = "cpu"
) -> dict[str, Any]:
    """The fields of a record that say where it comes from.

    Args:
        code: files and folders that it speaks of, from the repository's root.
        packages: whose versions matter.
        device: that computed.
    """
    files = sorted(code)
    parts = [platform.machine(), platform.system(), f"{os.cpu_count()} cores"]
    if device.startswith("cuda"):
        parts.append(torch.cuda.get_device_name(device))
    return {
        "code": {"files": files, "digest": digest(files)},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("lissom", *packages)},
        "machine": ", ".join(parts),
    }


def recipe_files(name: str) -> list[str]:
    """Where a bundled recipe is, and that of its teacher."""
    file = f"src/lissom/recipes/{name}.toml"
    teacher = tomllib.loads((ROOT / file).read_text(encoding="utf-8")).get("teacher")
    return [file, *(recipe_files(teacher["recipe"]) if teacher else [])]


Busy = Annotated[bool, typer.Option("--busy", help="Although other work runs on the machine.")]


def idle(busy: bool = False) -> float:
    """The load before anything is timed; on a machine with other work nothing is, unless told."""
    load = os.getloadavg()[0]
    if load > IDLE and not busy:
        raise SystemExit(
            f"the load of this machine is {load:.2f}: other work would be in the times. Wait until "
            f"it is at most {IDLE}, or give --busy, and the table will say so"
        )
    return load


def keep(record: dict[str, Any], out: Path, load: float | None = None) -> None:
    """Write a record.

    Args:
        record: what came out.
        out: the file.
        load: that of the machine before anything was timed; what it is now joins it.
    """
    loads = {} if load is None else {"load": [load, os.getloadavg()[0]]}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({**record, **loads}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def told(record: dict[str, Any], root: Path = ROOT) -> str:
    """What a page says of where a record comes from: its code, then and now, and the load."""
    # A record of one day names its code; one that was collected over days, that of each run.
    parts = [record] if "code" in record else record.get("runs", [])
    runs = [part["code"] for part in parts if "code" in part]
    now = {files: digest(files, root) for files in {tuple(code["files"]) for code in runs}}
    old = sum(code["digest"] != now[tuple(code["files"])] for code in runs)
    if not runs:
        said = ["from before records named their code"]
    elif not old:
        said = ["by the code as it is now"]
    elif old == len(runs):
        said = ["by code that has changed since"]
    else:
        said = [f"by the code as it is now, but for {old} of {len(runs)} runs"]
    if "load" in record:
        before, after = record["load"]
        said.append(f"load {before:.1f} before and {after:.1f} after")
        if before > IDLE or after > record.get("jobs", 1) + IDLE:
            said[-1] += ": other work ran beside it, so do not trust the times"
    return "; ".join(said)


def digest(code: Iterable[str], root: Path = ROOT) -> str:
    """Sixteen hex digits of what these files say, and the Python files of these folders."""
    found = hashlib.sha256()
    for name in sorted(code):
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(f"{file.relative_to(root).as_posix()}\n{_meaning(file)}\n".encode())
    return found.hexdigest()[:16]


def _meaning(file: Path) -> str:
    """A file without its comments, docstrings and empty lines."""
    if not file.exists():
        return "gone"
    text = file.read_text(encoding="utf-8")
    return repr(tomllib.loads(text)) if file.suffix == ".toml" else _code(text)


@cache  # most files are spoken of by many records
def _code(text: str) -> str:
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                for number in range(value.lineno, (value.end_lineno or 0) + 1):
                    lines[number - 1] = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())

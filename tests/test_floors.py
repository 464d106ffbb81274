"""The plan of the house: imports point down, most files are short, public names are few."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import lissom

SOURCE = Path(__file__).parents[1] / "src" / "lissom"
SHORT, LONG = 300, 600  # lines: of most files, and of none
MAX_NAMES = 48

# A room is a module or a package directly under lissom; it may import from lower floors, and from
# its own floor without going round in a circle.
FLOORS = (
    {
        "arguments",
        "errors",
        "hard_concrete",
        "importing",
        "parametrized",
        "running",
        "schedules",
        "scratch",
        "selection",
        "shards",
        "sparse_sizes",
        "storage",
        "strength",
        "tables",
        "turns",
        "widths",
    },
    {"penalties", "groups", "coupling", "operators"},
    {"methods", "compressions", "preconditioners", "rescaling"},
    {"shrinking", "saving", "measuring", "exporting"},
    {"curves", "attacks"},
    {"training", "data", "models", "recipes", "distill", "ensemble", "integrations"},
    {"report", "progress", "cli", "__init__", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(file: Path, source: Path) -> str:
    return file.relative_to(source).parts[0].removesuffix(".py")


def imported_rooms(file: Path, source: Path) -> Iterator[str]:
    """The rooms that a file imports from, absolutely or relatively, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["lissom", *file.relative_to(source).parent.parts]
            base = here[: len(here) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            modules = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for package, *names in modules:
            if package == "lissom":
                is_room = names and (len(names) > 1 or names[0] in FLOOR)
                yield names[0] if is_room else "__init__"


def complaints(source: Path) -> list[str]:
    """What is wrong with the imports under `source`, one sentence each."""
    found = []
    neighbours: dict[str, set[str]] = {}
    for file in sorted(source.rglob("*.py")):
        room, name = room_of(file, source), file.relative_to(source)
        if room not in FLOOR:
            found.append(f"{name} is on no floor: add {room!r} to FLOORS in tests/test_floors.py")
            continue
        for other in sorted(set(imported_rooms(file, source)) - {room}):
            if FLOOR.get(other, -1) > FLOOR[room]:
                found.append(
                    f"{name} on floor {FLOOR[room]} imports {other!r} from floor {FLOOR[other]}"
                )
            elif FLOOR.get(other) == FLOOR[room]:
                neighbours.setdefault(room, set()).add(other)
    try:
        TopologicalSorter(neighbours).prepare()
    except CycleError as error:
        found.append("rooms import one another in a circle: " + " → ".join(error.args[1]))
    return found


def longer_files(source: Path, lines: int) -> list[str]:
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in source.rglob("*.py")}
    return [f"{f.relative_to(source)}: {n} lines" for f, n in lengths.items() if n > lines]


def build(root: Path, **files: str) -> Path:
    """A house of files; `data__hub` stands for data/hub.py."""
    for name, text in files.items():
        path = root / (name if name.startswith("__") else name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return root


def test_imports_point_down():
    assert complaints(SOURCE) == []


def test_most_files_are_short():
    """A file is as long as its story: none is cut in two for the sake of a number."""
    assert len(longer_files(SOURCE, SHORT)) <= len(list(SOURCE.rglob("*.py"))) / 8
    assert longer_files(SOURCE, LONG) == []


def test_public_names_are_few():
    assert len(lissom.__all__) <= MAX_NAMES, f"{len(lissom.__all__)} names in lissom.__all__"


def test_no_name_hides_a_room():
    """`lissom.path.Curve` must not be looked for in a function."""
    for name in lissom.__all__:
        if not isinstance(getattr(lissom, name), ModuleType):
            assert not (SOURCE / name).exists() and not (SOURCE / f"{name}.py").exists(), name


def test_a_good_house_passes(tmp_path):
    house = build(
        tmp_path,
        errors="import math\nfrom numpy import lissom",
        groups="from lissom.errors import LissomError",
        penalties="from lissom import groups, errors\nimport lissom.schedules",
        data__hub="from lissom.data import x\nfrom . import cache\nfrom ..models import lenet",
        data__cache="from .hub import y\nfrom ..errors import LissomError",
        __init__="from lissom.data import x\nfrom .groups import Groups",
        cli="from lissom import __version__",
    )
    assert complaints(house) == []


def test_imports_that_point_up_are_named(tmp_path):
    up = (
        "import lissom.methods",
        "from lissom.methods.proximal import step",
        "from lissom import methods",
        "from . import methods",
        "from .methods import step",
        "def f():\n    from lissom.methods import step",
    )
    for number, text in enumerate(up):
        house = build(tmp_path / str(number), groups=text)
        assert complaints(house) == ["groups.py on floor 1 imports 'methods' from floor 2"], text
    for number, text in enumerate(("import lissom", "from lissom import L0", "from . import L0")):
        house = build(tmp_path / f"init{number}", groups=text)
        assert complaints(house) == ["groups.py on floor 1 imports '__init__' from floor 6"], text
    house = build(tmp_path / "package", data__hub="from ..cli import app")
    assert complaints(house) == ["data/hub.py on floor 5 imports 'cli' from floor 6"]


def test_circles_on_a_floor_are_named(tmp_path):
    house = build(
        tmp_path,
        training="from lissom.models import lenet",
        models__lenet="from lissom.data.hub import load",
        data__hub="from lissom.training import Trainer",
    )
    [complaint] = complaints(house)
    assert complaint.startswith("rooms import one another in a circle: ")
    assert all(room in complaint for room in ("training", "models", "data"))


def test_methods_rest_on_compressions_and_not_the_other_way():
    for file in (SOURCE / "compressions").rglob("*.py"):
        assert "methods" not in imported_rooms(file, SOURCE), file.name


def test_a_room_without_a_floor_is_named(tmp_path):
    [complaint] = complaints(build(tmp_path, cellar="import math"))
    assert complaint == "cellar.py is on no floor: add 'cellar' to FLOORS in tests/test_floors.py"


def test_long_files_are_named(tmp_path):
    house = build(tmp_path, groups="\n" * 401, errors="\n" * 400)
    assert longer_files(house, 400) == ["groups.py: 401 lines"]

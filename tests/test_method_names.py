"""Nothing outside a method's own room asks which method it is: no name of one, and no class."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lissom.methods import NAMED

SOURCE = Path(__file__).parents[1] / "src" / "lissom"
ROOMS = {  # where each method lives
    "proximal": "methods/proximal.py",
    "subgradient": "methods/subgradient.py",
    "gates": "methods/gates/",
    "lc": "methods/lc/",
    "nested": "methods/nested.py",
}
# The protocol's own list, and the face, which gives people the verbs.
LISTS = ("methods/__init__.py", "__init__.py")
COMPARED = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)


def names_in(tree: ast.AST, rooms: set[str]) -> Iterator[str]:
    """Imports out of rooms, classes of methods, and comparisons with their names."""
    classes = {method.__name__ for method in NAMED.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[:2] == ["lissom", "methods"] and len(parts) > 2 and parts[2] in rooms:
                yield f"imports from {node.module}"
            yield from (f"imports {a.name}" for a in node.names if a.name in classes)
        elif isinstance(node, ast.Name | ast.Attribute):
            word = node.id if isinstance(node, ast.Name) else node.attr
            if word in classes:
                yield f"names {word}"
        elif isinstance(node, ast.Compare) and any(isinstance(op, COMPARED) for op in node.ops):
            constants = [c for c in ast.walk(node) if isinstance(c, ast.Constant)]
            yield from (f"compares with {c.value!r}" for c in constants if c.value in NAMED)
        elif isinstance(node, ast.match_case | ast.Dict | ast.Subscript):
            keys = {
                ast.match_case: lambda n: ast.walk(n.pattern),
                ast.Dict: lambda n: [key for key in n.keys if key is not None],
                ast.Subscript: lambda n: [n.slice],
            }[type(node)](node)
            constants = [k for k in keys if isinstance(k, ast.Constant)]
            yield from (f"chooses by {c.value!r}" for c in constants if c.value in NAMED)


def complaints(source: Path) -> list[str]:
    found = []
    for file in sorted(source.rglob("*.py")):
        name = file.relative_to(source).as_posix()
        if name in LISTS:
            continue
        rooms = {room for room, place in ROOMS.items() if not name.startswith(place)}
        own = ROOMS.keys() - rooms
        own |= {NAMED[method].__name__ for method in own}
        for what in names_in(ast.parse(file.read_text(encoding="utf-8")), rooms):
            if what.split()[-1].strip("'") not in own:
                found.append(f"{name} {what}")
    return found


def test_every_method_has_its_room() -> None:
    assert set(ROOMS) == set(NAMED)
    for place in ROOMS.values():
        assert (SOURCE / place).exists()


def test_no_file_outside_a_methods_room_names_it() -> None:
    assert complaints(SOURCE) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("from lissom.methods.gates import gates_of", "imports from lissom.methods.gates"),
        ("from lissom.methods.lc.method import LC", "imports from lissom.methods.lc.method"),
        ("from lissom.methods import Proximal", "imports Proximal"),
        ("ok = isinstance(method, LC)", "names LC"),
        ("ok = method.name == 'lc'", "compares with 'lc'"),
        ("ok = name in ('gates', 'lc')", "compares with 'gates'"),
        ("made = {'proximal': 1}[name]", "chooses by 'proximal'"),
        ("made = table['gates']", "chooses by 'gates'"),
        ("match name:\n    case 'lc':\n        pass", "chooses by 'lc'"),
    ],
)
def test_it_would_be_noticed(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "specs.py").write_text(text)
    assert f"recipes/specs.py {what}" in complaints(tmp_path)

"""The documented interface: the check of docs/hooks.py, and that what is printed can be typed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parents[1]


def load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def problems(source: str, api: str = "") -> list[str]:
    """What the check finds in a package `fake` with this source; all names listed by default."""
    fake = ModuleType("fake")
    exec(dedent(source), vars(fake))
    return hooks.problems(fake, api or "\n".join(f"::: fake.{name}" for name in fake.__all__))


def test_documented_names_pass():
    found = problems('''
        __all__ = ["shrink", "Base", "Groups"]
        def shrink():
            """Remove what is zero."""
        class Base:
            """One."""
            def norms(self):
                """Of each group."""
        class Groups(Base):
            """Two."""
            total = 0
            def norms(self): ...          # inherits its docstring
            def _hidden(self): ...
            def __len__(self): ...
    ''')
    assert found == []


def test_undocumented_function_is_named():
    found = problems("__all__ = ['shrink']\ndef shrink(): ...")
    assert found == ["fake.shrink has no docstring"]


@pytest.mark.parametrize(
    "member",
    [
        "def norms(self): ...",
        "@property\n    def norms(self): ...",
        "@functools.cached_property\n    def norms(self): ...",
        "@classmethod\n    def norms(cls): ...",
        "@staticmethod\n    def norms(): ...",
    ],
)
@pytest.mark.parametrize("inherited", [False, True])
def test_undocumented_member_is_named(member, inherited):
    public = "class Groups(_Base):\n    'Documented.'" if inherited else "Groups = _Base"
    source = f"import functools\nclass _Base:\n    'Documented.'\n    {member}\n{public}\n"
    assert problems(source + "__all__ = ['Groups']") == ["fake.Groups.norms has no docstring"]


def test_members_from_elsewhere_are_not_ours():
    found = problems("""
        __all__ = ["Mine"]
        class Foreign:
            def fit(self): ...
        Foreign.__module__ = "elsewhere.rooms"
        class Mine(Foreign):
            "Documented."
    """)
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "class Cut: ...",
        "class Base:\n    'Documented.'\nclass Cut(Base): ...",
        "from dataclasses import dataclass\n@dataclass\nclass Cut:\n    ties: int",
        "Cut = 400",
    ],
    ids=["plain", "inherited", "dataclass", "value"],
)
def test_docstrings_that_python_makes_up_do_not_count(source):
    assert problems(f"{source}\n__all__ = ['Cut']") == ["fake.Cut has no docstring"]


def test_entries_and_public_names_must_agree():
    found = problems(
        "__all__ = ['L0', 'L1']\ndef L0():\n    'One.'\ndef L1():\n    'Two.'",
        api="# API\n\nAbout ::: entries.\n\n::: fake.L0\n    options: {}\n::: fake.L2\n",
    )
    assert found == [
        "fake.L1 has no entry '::: fake.L1' in docs/api.md",
        "docs/api.md names fake.L2, which does not exist",
    ]


def test_a_name_in_a_room_may_be_listed():
    source = """
        import types
        __all__ = []
        room = types.SimpleNamespace(measure=lambda: None)
        room.measure.__doc__ = "Count."
    """
    assert problems(source, api="::: fake.room.measure") == []
    assert problems(source, api="::: fake.room.weigh") == [
        "docs/api.md names fake.room.weigh, which does not exist"
    ]


def test_build_fails_with_the_names(tmp_path):
    from mkdocs.exceptions import PluginError

    (tmp_path / "api.md").write_text("::: lissom.Threshhold\n")
    with pytest.raises(PluginError, match=r"lissom\.L0(?s:.*)lissom\.Threshhold"):
        hooks.on_pre_build({"docs_dir": str(tmp_path)})


def test_lissom_is_documented():
    import lissom

    assert hooks.problems(lissom, (ROOT / "docs" / "api.md").read_text(encoding="utf-8")) == []


def test_every_name_printed_is_there_after_one_import():
    """On the pages, in docstrings and in messages; in a process that has imported nothing else."""
    api = re.findall(r"^::: *(\S+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    files = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py")]
    text = "\n".join(file.read_text() for file in files)
    text = re.sub(r"^ +from \S+ import", "", text, flags=re.MULTILINE)  # late, for Python to find
    printed = re.findall(r"(?<![\w./-])lissom(?:\.[A-Za-z_]\w*)+(?![\w{])", text)
    assert len(api) > 80 and len(set(printed)) > 150
    printed.remove("lissom.input")  # what a tensor is called in files
    others = ("lissom.integrations.", "lissom.pt")  # of frameworks that may be missing, and a file
    printed = [name for name in printed if not name.startswith(others)]
    names = sorted({*api, *printed, "lissom.__version__"})
    code = """
        import operator, sys, lissom
        for name in sys.stdin.read().split():
            try:
                operator.attrgetter(name.removeprefix("lissom."))(lissom)
            except AttributeError as error:
                print(name, error)
    """
    command = [sys.executable, "-c", dedent(code)]
    done = subprocess.run(command, input="\n".join(names), capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def test_a_name_that_is_not_there_is_answered_by_the_nearest():
    import lissom

    with pytest.raises(AttributeError, match=r"no attribute 'neuron'\. Did you mean 'neurons'"):
        lissom.neuron  # noqa: B018
    assert not hasattr(lissom, "__wrapped__") and not hasattr(lissom, "__main__")
    assert {"__version__", "attacks", "weights"} <= set(dir(lissom))

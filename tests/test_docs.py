"""The documentation check of docs/hooks.py, on modules made up here and on lissom itself."""

import importlib.util
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


def test_a_function_named_like_its_module_is_listed_in_it():
    source = """
        __all__ = ["measure"]
        def measure():
            "Count."
        measure.__module__ = "fake.measure"
    """
    assert problems(source, api="::: fake.measure.measure") == []
    assert problems(source, api="::: fake.measure") == [
        "fake.measure has no entry '::: fake.measure.measure' in docs/api.md",
        "docs/api.md names fake.measure, which does not exist",
    ]


def test_build_fails_with_the_names(tmp_path):
    from mkdocs.exceptions import PluginError

    (tmp_path / "api.md").write_text("::: lissom.Threshhold\n")
    with pytest.raises(PluginError, match=r"lissom\.L0(?s:.*)lissom\.Threshhold"):
        hooks.on_pre_build({"docs_dir": str(tmp_path)})


def test_lissom_is_documented():
    import lissom

    assert hooks.problems(lissom, (ROOT / "docs" / "api.md").read_text(encoding="utf-8")) == []

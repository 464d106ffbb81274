"""The pages about integrations: their code runs, and their examples are short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from libraries import library
from products import exhaustive, unlike

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "integrations").glob("*.md"))
IMPORTS = {"lightning": "lightning.pytorch"}


def code(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_is_short_and_the_page_is_in_the_contents(page: Path) -> None:
    lines = [line for line in code(page)[0].splitlines() if line.strip()]
    assert len(lines) <= 20
    assert f"integrations/{page.name}" in (ROOT / "mkdocs.yml").read_text()


@exhaustive
@unlike
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(IMPORTS.get(page.stem, page.stem))
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(code(page)), str(page), "exec"), {"__name__": page.name})


@exhaustive
def test_a_framework_that_is_missing_is_told_with_what_installs_it() -> None:
    source = "\n".join(
        [
            "import sys, lissom",
            "for name in ('lightning', 'skorch', 'transformers'):",
            "    sys.modules[name] = None",
            "    try:",
            "        getattr(lissom.integrations, name)",
            "    except ImportError as error:",
            "        assert isinstance(error, lissom.LissomError)",
            "        print(error)",
            "print(hasattr(lissom.integrations, 'nothing'))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    said = [
        f"{name} is not installed, or not whole: pip install 'lissom[{name}]'"
        for name in ("lightning", "skorch", "transformers")
    ]
    assert done.stdout.splitlines() == [*said, "False"], done.stderr

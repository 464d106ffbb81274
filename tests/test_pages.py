"""What the pages say is true: their code runs, their recipes are read, their tables are right."""

import re
import runpy
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from products import few, unlike

import lissom
from lissom.cli import app
from lissom.data.modrec import CLASSES
from lissom.errors import RecipeError
from lissom.models import cnn
from lissom.recipes import read_recipe, recipe_names

ROOT = Path(__file__).parents[1]
ALL = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prepare(page: str) -> None:
    """What the code of a page expects in the folder it runs in."""
    if page == "recipes.md":  # a run whose network was shrunk
        run = Path("runs/digits-channels")
        run.mkdir(parents=True)
        small = lissom.shrink(cnn((1, 8, 8)), torch.rand(2, 1, 8, 8))
        lissom.save(small, run / "small.safetensors")
    if page == "modrec.md":  # signals of the data set's shape: runs of ten vectors, of noise alone
        cells = [(label, snr) for label in range(len(CLASSES)) for snr in (-4, 18)]
        y, snr = np.repeat(np.array(cells, np.int8), 400, axis=0).T
        x = np.random.default_rng(0).standard_normal((len(y), 2, 128)).astype(np.float16)
        Path("DIR").mkdir()
        np.savez(
            "DIR/rml2016-like-small.npz",
            X=x,
            y=y.astype(np.uint8),
            snr=snr,
            run=np.arange(len(y), dtype=np.int32) // 10,
            classes=np.array(CLASSES),
        )


# Those of docs/integrations/ need libraries: test_integrations_pages.py runs them.
WITH_CODE = [p for p in ALL if p.parent.name != "integrations" and blocks(p, "python")]
QUICK = [p for p in ALL if p.name == "methods.md"]


@unlike
@pytest.mark.parametrize("page", few(WITH_CODE, QUICK), ids=lambda p: p.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LISSOM_DATA_DIR", "DIR")
    prepare(page.name)
    code = "\n".join(blocks(page, "python"))
    exec(compile(code, str(page), "exec"), {"__name__": page.name})


def sections(toml: str) -> dict[str, str]:
    """The tables of a recipe by their name, those within a table together with it."""
    found: dict[str, str] = {}
    name = ""
    for line in toml.splitlines():
        if header := re.match(r"\[+(\w+)", line):
            name = header[1]
        found[name] = found.get(name, "") + line + "\n"
    return found


EXAMPLE, *OTHERS = blocks(ROOT / "docs" / "recipes.md", "toml")


@pytest.mark.parametrize(
    "block", ["", *OTHERS, *blocks(ROOT / "docs" / "modrec.md", "toml")], ids=lambda b: b[:12]
)
def test_the_recipes_of_a_page_can_be_read(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The network that they name is that of `lissom init`.
    monkeypatch.syspath_prepend(ROOT / "src" / "lissom" / "cli" / "templates")
    path = tmp_path / "mine.toml"
    path.write_text("".join((sections(EXAMPLE) | sections(block)).values()))
    read_recipe(str(path))


def commands() -> Iterator[tuple[str, str]]:
    """Each command on the pages that names a recipe, and the error that follows it."""
    for page in ALL:
        for block in blocks(page, "console"):
            for said in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
                command, _, answer = said.partition("\n")
                words = shlex.split(command, comments=True)
                if words[:1] == ["lissom"] and len(words) > 2 and words[2] in recipe_names():
                    yield command, " ".join(answer.split())


@pytest.mark.parametrize(("command", "answer"), list(commands()))
def test_commands_name_keys_that_recipes_have(command: str, answer: str) -> None:
    _, _, recipe, *options = shlex.split(command, comments=True)
    changes = [after for flag, after in pairwise(options) if flag == "--set"]
    if not answer.startswith("error:"):
        read_recipe(recipe, changes)
        return
    with pytest.raises(RecipeError) as refused:
        read_recipe(recipe, changes)
    assert f"error: {refused.value}" == answer


def test_commands_exist_and_take_their_options() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    program_itself: Any = typer.main.get_command(app)
    verbs = program_itself.commands
    options = {"--help", *(name for option in program_itself.params for name in option.opts)}
    count = 0
    for page in ALL:
        text = page.read_text().replace("\\\n", " ").replace("$seed", "0")
        shell = re.findall(r"^(?:\$ |for .*?; do )(.*?)(?:; done)?$", text, re.MULTILINE)
        shell = [line.partition("; do ")[2] or line for line in shell]
        for line in [*shell, *re.findall(r"`((?:lissom|make) [^`]+)`", text)]:
            program, verb, *words = shlex.split(line.partition(" | ")[0], comments=True)
            if program in ("cd", "pip"):
                continue
            assert program in ("make", "lissom"), line
            assert verb in (targets if program == "make" else {*verbs, *options}), line
            if verb in verbs:
                known = {"--help"} | {n for option in verbs[verb].params for n in option.opts}
                given = {word for word in words if word.startswith("--")}
                assert given <= known, line
                if line in shell:
                    verbs[verb].make_context(verb, words)  # all of it can be parsed
            count += 1
    assert count > 30


def test_the_page_of_commands_is_what_the_program_says() -> None:
    script = ROOT / "docs" / "list_commands.py"
    made = runpy.run_path(str(script))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), f"run python {script}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in ALL:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

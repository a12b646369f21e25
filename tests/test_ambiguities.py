"""The pages of ambiguities and words name what is there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import pyro_vaes as pv

DOCS = Path(pv.__file__).parent.parent / "docs"
CODE = re.compile(r"`([\w.]+)(?:\(([\w=, ]*)\))?`")


def column(page: str, number: int = 1) -> list[str]:
    """The cells of one column of all tables of a page, without their heads."""
    rows = [line.strip().strip("|").split(" | ") for line in (DOCS / page).read_text().splitlines() if line[:2] == "| "]
    return [cells[number] for cells in rows if cells[number].strip() != "in the code"]


def found(name: str) -> object:
    """A public name after ``pv.``, or a module inside the package and what it holds."""
    thing: object = pv
    path = "pyro_vaes"
    for part in name.removeprefix("pv.").split("."):
        path += f".{part}"
        if not name.startswith("pv.") and not hasattr(thing, part):
            importlib.import_module(path)
        thing = getattr(thing, part)
    return thing


def checked(cell: str) -> int:
    """Find every code name of a cell, and every argument in its signature."""
    names = CODE.findall(cell)
    for name, arguments in names:
        thing = found(name)
        for argument in re.findall(r"(\w+)=", arguments):
            assert argument in inspect.signature(thing).parameters, f"{name}({argument}=)"  # type: ignore[arg-type]
    return len(names)


def test_every_ambiguity_has_its_row():
    text = (DOCS / "ambiguities.md").read_text()
    assert sorted(int(n) for n in re.findall(r"^### Q(\d+): ", text, re.M)) == list(range(1, 35))
    assert len(column("ambiguities.md")) == 34


@pytest.mark.parametrize("page", ["ambiguities.md", "glossary.md"])
def test_names_in_the_code_exist(page):
    for cell in column(page):
        assert checked(cell), f"no code name in {cell!r}"


@pytest.mark.parametrize("wrong", ["`pv.no_such`", "`pv.vae(no_such=)`", "`nn.mlp.NoSuch`"])
def test_a_name_that_is_not_there_is_noticed(wrong):
    with pytest.raises((AttributeError, AssertionError, ImportError)):
        checked(wrong)

"""Names in the glossary exist."""

import importlib
import re
from pathlib import Path

import pyro_vaes as pv

PAGE = (Path(pv.__file__).parent.parent / "docs" / "glossary.md").read_text()


def test_words_name_code_that_exists():
    entries = re.findall(r"^: (.*)$", PAGE.split("## Words of the field")[1], re.M)
    names = [name for entry in entries for name in re.findall(r"`([A-Za-z_]+)(?:\([^`]*)?`", entry)]
    assert len(entries) >= 20 and len(names) >= 15
    assert not [name for name in names if name not in pv.__all__ and name != "x"]


def test_symbols_name_code_that_exists():
    rows = [row.split("|")[3] for row in PAGE.splitlines() if row.startswith("| $")]
    names = {name for row in rows for name in re.findall(r"`([A-Za-z_]+)`", row)}
    source = "".join(path.read_text() for path in Path(pv.__file__).parent.rglob("*.py"))
    assert len(rows) >= 20
    assert not [name for name in names if not re.search(rf"\b{name}\b", source)]


def test_modules_named_on_the_page_exist():
    for name in re.findall(r"`(pyro_vaes[\w.]+)`", PAGE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)

"""The page of ambiguities has every question once, and what it says of the code is there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import pyro_vaes as pv

PAGE = (Path(pv.__file__).parent.parent / "docs" / "ambiguities.md").read_text()
SECTIONS = {m[1]: m[2] for m in re.finditer(r"^### (Q\d+) · .*?\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)}


def test_every_question_has_one_section():
    assert sorted(SECTIONS, key=lambda q: int(q[1:])) == [f"Q{n}" for n in range(1, 35)]
    assert len(re.findall(r"^### Q", PAGE, re.M)) == 34


@pytest.mark.parametrize("question", SECTIONS)
def test_the_code_has_it(question):
    there, here, code = (SECTIONS[question].split(f"*{part}:*") for part in ("There", "Here", "In the code"))
    assert len(there) == len(here) == len(code) == 2
    for name, arguments in re.findall(r"`pv\.(\w+)(?:\(([\w, ]*)\))?`", code[1]):
        parameters = inspect.signature(getattr(pv, name)).parameters
        assert set(filter(None, arguments.split(", "))) <= set(parameters), name
    for path in re.findall(r"`(pyro_vaes[\w.]+)`", code[1]):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(path)
    assert "`p" in code[1]

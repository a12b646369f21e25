"""Every public function, every argument, every bad value: a right answer, or one line that names what is wrong."""

import inspect
import os
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hostile import Entry, attempt, kinds, same
from hostile_entries import ENTRIES, OBJECTIVES, SLOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import sizes

import pyro_vaes as pv

QUICK = settings(max_examples=80, derandomize=True, deadline=None, database=None,
                 suppress_health_check=list(HealthCheck))  # fmt: skip

# The same numbers in another form: they give the same answer.
SAME = {"gaps", "transposed", "subclass", "grad", "parameter", "read-only numpy", "-0.0 as 0"}


def variant_entry(name: str) -> Entry:
    """A constructor with all of its arguments, small ones where there are such."""
    known = inspect.signature(pv.VARIANTS[name]).parameters
    plain = {n: p.default for n, p in known.items() if isinstance(p.default, bool | int | float | str | tuple)}
    return Entry(pv.VARIANTS[name], lambda: plain | sizes(name, 4, 2, (4, 3)), draws=True)


VARIANTS = {f"variant {name}": variant_entry(name) for name in pv.VARIANTS}
TABLE = {**ENTRIES, **OBJECTIVES, **VARIANTS}


@cache
def bad(name: str) -> dict[str, list[str]]:
    """What each argument of a function is tried with."""
    return {argument: sorted(kinds(value)) for argument, value in TABLE[name].made().items()}


def tried(name: str, argument: str, kind: str) -> tuple[str, Any]:
    entry = TABLE[name]
    try:
        return attempt(entry, argument, kinds(entry.made()[argument])[kind])
    except (Exception, AssertionError) as error:
        error.add_note(f"{name}: {argument} is {kind}")
        raise


def parts(found: Any) -> list[torch.Tensor]:
    """All tensors of an answer."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, float):
        return [torch.tensor(found)]
    if isinstance(found, dict):
        return [part for value in found.values() for part in parts(value)]
    if isinstance(found, list | tuple):
        return [part for value in found for part in parts(value)]
    if is_dataclass(found) and not isinstance(found, type):
        return [part for f in fields(found) for part in parts(getattr(found, f.name))]
    return []


QUICK_NAMES = [name for name in (*ENTRIES, *OBJECTIVES) if name not in SLOW]


def test_every_public_function_is_tried():
    """What is not here is a result, or holds what others were given."""
    tried_ones = {name.split()[0] for name in TABLE} | set(pv.VARIANTS)
    left = {n for n in pv.__all__ if callable(getattr(pv, n)) and n not in tried_ones}
    results = {n for n in left if inspect.isclass(getattr(pv, n))}
    left -= {"average", "everyone", "sweep"}  # between ranks; whole trainings, see test_sweep.py
    assert left - results == {"describe", "open_posterior", "settings", "to_arviz", "write_posterior"}


@QUICK
@given(data=st.data())
def test_a_bad_argument_is_answered_or_refused(data):
    name = data.draw(st.sampled_from(QUICK_NAMES))
    argument = data.draw(st.sampled_from(sorted(bad(name))))
    tried(name, argument, data.draw(st.sampled_from(bad(name)[argument])))


@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_a_bad_argument_of_a_variant_is_refused_or_taken(data):
    name = data.draw(st.sampled_from(sorted(VARIANTS)))
    argument = data.draw(st.sampled_from(sorted(bad(name))))
    tried(name, argument, data.draw(st.sampled_from(bad(name)[argument])))


HOURS = pytest.mark.skipif(not os.environ.get("PYRO_VAES_FUZZ"), reason="takes hours: set PYRO_VAES_FUZZ=1")


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_all_bad_arguments_are_answered_or_refused(name):
    failed = []
    for argument, kind in ((argument, kind) for argument, found in bad(name).items() for kind in found):
        try:
            tried(name, argument, kind)
        except (Exception, AssertionError) as error:
            failed.append(f"{argument} is {kind}: {type(error).__name__}: {str(error)[:200]}")
    assert not failed, "\n".join(failed)


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_the_form_of_a_tensor_does_not_matter(name):
    entry = TABLE[name]
    for argument, value in entry.made().items():
        if not isinstance(value, torch.Tensor):
            continue
        for kind in sorted(SAME & kinds(value).keys()):
            given, other = entry.made(), entry.made()
            other[argument] = kinds(value)[kind]()
            torch.manual_seed(7)
            expected = entry.call(**given)
            torch.manual_seed(7)
            found = entry.call(**other)
            if entry.trains:
                expected, found = ({**a["pair"].state_dict()} for a in (given, other))
            for a, b in zip(parts(expected), parts(found), strict=True):
                assert same(a, b), f"{argument} as {kind} gives another answer"

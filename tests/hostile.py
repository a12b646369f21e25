# ruff: noqa: E501, NPY002 (tables; the legacy state is the one that must not move)
"""Bad values of every kind, one argument at a time, and what an entry point owes for each: an answer or one line."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

import pyro_vaes as pv

# What no argument of these kinds may be, or only some; small numbers stay small, so that a good one is soon done.
INTS = [0, -1, 1, 2, 3, 2.5, 2.0, True, None, "3", math.nan, math.inf, 2**31, 2**70, -(2**70), [1], (), b"1", 1j,
        torch.tensor(2), np.int64(2), "é\n"]  # fmt: skip
FLOATS = [0.0, -0.0, -1.0, 0.5, 1, 3.7, math.nan, math.inf, -math.inf, 1e308, 5e-324, True, None, "x", "0.5", [0.5],
          2**70, 10**400, 1j, torch.tensor(0.5), torch.tensor([0.5, 0.5]), np.float32(0.5), {"z": -1.0}, {"y": 1.0}]  # fmt: skip
WORDS = [
    "",
    "nothing",
    "../../nothing/../x",
    "é\n",
    "\0",
    "a" * 10_000,
    3,
    None,
    b"is",
    ["is"],
    1.5,
    True,
    nn.Identity(),
]
SHAPES = [(), (0,), (-2, -2), (2, 3), (4,), (2, 2), (1, 2, 2), (1, 1, 2, 2), "ab", "22", 5, None, [2.0, 2.0], (2, None),
          (2**40, 2**40), (2, "2"), torch.Size([2, 2]), {2: 2}, np.array([2, 2]), (True, 4), (math.nan, 2)]  # fmt: skip
FLAGS = [0, 1, None, "yes", [], 1.5, torch.tensor(True)]
MODULES = [None, 3, "pair", nn.Linear(4, 2), {}, lambda x: x, torch.rand(6, 4)]


class Odd(Tensor):
    """A subclass, as libraries make them."""


def tensors(good: Tensor) -> dict[str, Any]:
    """Hostile stand-ins for a tensor: names, and what makes each."""
    rows, whole = (len(good) if good.dim() else 1), not good.is_floating_point()
    flat, base = good.flatten(), good if whole else good.double()
    spoilt = {f"{value} inside": value for value in () if whole} | (
        {} if whole else {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "huge": 3e38, "tiny": 1e-42, "-0.0": -0.0,
                          "7": 7.0, "-3": -3.0}
    )  # fmt: skip

    def with_value(value):
        found = good.clone()
        found.view(-1)[0] = value
        return found

    def gaps(a):
        wide = torch.zeros(*a.shape[:-1], a.shape[-1] * 2, dtype=a.dtype)
        wide[..., ::2] = a
        return wide[..., ::2]

    made: dict[str, Any] = {name: (lambda v=value: with_value(v)) for name, value in spoilt.items()}
    made |= {
        "0-d": lambda: flat[0], "no rows": lambda: good[:0], "no columns": lambda: good.reshape(rows, -1)[:, :0],
        "1-d": lambda: flat, "3-d": lambda: good[None], "one row": lambda: good[:1], "fewer columns": lambda: good[..., :-1],
        "more rows": lambda: torch.cat([good, good]), "expanded": lambda: good[:1].expand(rows, *good.shape[1:]),
        "2^40 rows": lambda: good[:1].expand(2**40, *good.shape[1:]), "2^40 columns": lambda: flat[:1].expand(rows, 2**40),
        "meta": lambda: good.to("meta"), "huge meta": lambda: torch.empty(2**30, 2**20, device="meta"),
        "sparse": lambda: good.to_sparse(), "csr": lambda: _quiet(good.reshape(rows, -1).to_sparse_csr),
        "quantised": lambda: _quiet(lambda: torch.quantize_per_tensor(good.float(), 0.1, 0, torch.quint8)),
        "grad": lambda: good.clone().requires_grad_() if not whole else good,
        "gaps": lambda: gaps(good) if good.dim() else good, "transposed": lambda: good.t().contiguous().t() if good.dim() == 2 else good,
        "subclass": lambda: good.clone().as_subclass(Odd), "parameter": lambda: nn.Parameter(good.clone(), requires_grad=False),
        "numpy": lambda: good.numpy().copy(), "reversed numpy": lambda: good.numpy()[::-1],
        "masked array": lambda: np.ma.masked_array(good.numpy().copy(), mask=good.numpy() > 0.5),
        "list": lambda: good.tolist(), "none": lambda: None, "str": lambda: "x", "bytes": lambda: b"x", "number": lambda: 3,
        "float": lambda: 0.5, "dict": lambda: {"x": good}, "tuple of tensors": lambda: tuple(good) if good.dim() else (good,),
        "object array": lambda: np.array([None, "a"], dtype=object), "nested": lambda: _quiet(lambda: torch.nested.nested_tensor([flat, flat[:1]])),
    }  # fmt: skip
    for dtype in (torch.bool, torch.int64, torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float64,
                  torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.uint16):  # fmt: skip
        made[str(dtype)] = lambda dtype=dtype: base.to(dtype)
    return made


def _quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def frozen_numpy(good: Tensor) -> Tensor:
    """A tensor on memory that numpy says is read-only."""
    array = good.numpy().copy()
    tensor = torch.from_numpy(array)
    array.flags.writeable = False
    return tensor


def kinds(value: Any) -> dict[str, Any]:
    """Bad values for an argument whose good value this is."""
    if isinstance(value, pv.Pair):
        return {str(i): (lambda v=v: v) for i, v in enumerate(MODULES)}
    if isinstance(value, Tensor):
        return tensors(value) | {"read-only numpy": lambda: frozen_numpy(value)}
    table = (
        FLAGS if isinstance(value, bool)
        else INTS if isinstance(value, int)
        else FLOATS if isinstance(value, float)
        else WORDS if isinstance(value, str)
        else SHAPES if isinstance(value, tuple)
        else [3, "x", [], ...]
    )  # fmt: skip
    return {f"{i}: {v!r:.30}": (lambda v=v: v) for i, v in enumerate(table)}


@dataclass(frozen=True)
class Entry:
    """A callable with good arguments; `made` gives fresh ones, so that no call spoils the next."""

    call: Any
    made: Any
    #: Whether it is there to change its pair.
    trains: bool = False
    #: Whether NaN in gives NaN out, because it looks at no value.
    blind: bool = False
    #: Whether it draws from torch's global generator, as every module does that makes its parameters.
    draws: bool = False


def fingerprint(value: Any) -> Any:
    """What must be the same afterwards."""
    if isinstance(value, nn.Module):
        return {k: v.clone() for k, v in value.state_dict().items()}
    if (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    ):
        return value.detach().clone() if value.numel() < 10**6 else None
    return value.copy() if isinstance(value, np.ndarray) else None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Tensor):
        if a.dtype == torch.float8_e4m3fn:
            a, b = a.float(), b.float()
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a != a) & (b != b)).all())
    return True if a is None else bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def state_of_the_world() -> tuple:
    return (torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype(), torch.is_grad_enabled(),
            len(pyro.get_param_store()))  # fmt: skip


def attempt(entry: Entry, argument: str, make: Any) -> tuple[str, Any]:
    """Call with one argument replaced; give what came, and fail where the promise is broken."""
    arguments = entry.made()
    value = make()
    arguments[argument] = value
    before = {name: fingerprint(v) for name, v in arguments.items()}
    world = state_of_the_world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            outcome: tuple[str, Any] = ("answer", entry.call(**arguments))
        except pv.InputError as error:
            outcome = ("refused", str(error))
        except pv.Diverged as error:
            outcome = ("diverged", str(error))
    after = state_of_the_world()
    assert (entry.draws or torch.equal(world[0], after[0])) and (world[1] == after[1]).all(), (
        "a global random state has moved"
    )
    assert world[2:] == after[2:], "a global setting has changed"
    if not (outcome[0] == "answer" and entry.trains):
        for name, was in before.items():
            assert same(was, fingerprint(arguments[name])), f"{name} was changed"
    if outcome[0] != "answer":
        assert outcome[1].strip() and "\n" not in outcome[1] and "\0" not in outcome[1], f"not one line: {outcome[1]!r}"
        assert len(outcome[1]) < 1500, f"a long message: {outcome[1][:200]!r}"
    else:
        assert entry.blind or finite(outcome[1]), f"an answer that is not finite: {outcome[1]}"
    return outcome


def finite(found: Any, depth: int = 0) -> bool:
    if isinstance(found, Tensor):
        return not found.is_floating_point() or bool(torch.isfinite(found).all())
    if isinstance(found, float):
        return math.isfinite(found)
    if isinstance(found, list | tuple) and depth < 3:
        return all(finite(f, depth + 1) for f in found)
    return True

"""What a sweep may vary: arguments of a pair's constructor and of the plan, each in a range or among choices."""

import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from pyro_vaes.errors import InputError, said, unknown

PLAN: dict[str, tuple[type, ...]] = {
    "steps": (int,), "batch_size": (int,), "lr": (float,), "betas": (list,), "optimiser": (str,), "schedule": (str,),
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers where ``whole``; evenly in the logarithm where ``log``."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return json.dumps([self.low, self.high, *(["log"] if self.log else [])])

    def ends(self) -> list[Any]:
        return [self.low, self.high]

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.log)

    def value(self, drawn: Any) -> Any:
        return drawn


@dataclass(frozen=True)
class Choices:
    """One of some values, as they are in JSON; Optuna is told their text, since it stores no lists."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return json.dumps({"choices": self.ends()})

    def ends(self) -> list[Any]:
        return [json.loads(value) for value in self.values]

    def distribution(self) -> Any:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def value(self, drawn: Any) -> Any:
        return json.loads(drawn)


Space = dict[str, Range | Choices]


def read_space(space: Any, function: Callable[..., Any]) -> Space:
    """Check a space against a constructor's signature.

    Args:
        space: by argument, ``[low, high]``, ``[low, high, "log"]`` or ``{"choices": [...]}``. Arguments are those of
            ``function``, but ``data_dim``, and of the plan: steps, batch_size, lr, betas, optimiser, schedule.

    Raises:
        InputError: for an argument that there is not, a range that is none, or one for an argument that is no number.

    >>> from pyro_vaes.variants import l2_vae
    >>> read_space({"latent_dim": [2, 32], "lr": [1e-4, 1e-2, "log"]}, l2_vae)["latent_dim"]
    Range(low=2, high=32, log=False, whole=True)
    """
    if not isinstance(space, Mapping) or not space:
        raise InputError(f'space is {said(space)}: it must name arguments, such as {{"latent_dim": [2, 32]}}')
    known = PLAN | {name: kind for name, kind in kinds(function).items() if name != "data_dim"}
    found: Space = {}
    for name, given in space.items():
        if name not in known:
            raise unknown("argument", str(name), list(known))
        found[name] = _choices(name, given) if isinstance(given, Mapping) else _range(name, given, known[name])
    return found


def kinds(function: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """The types that each argument may have, by its annotation, else by its default; () where neither says."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}
    found: dict[str, tuple[type, ...]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(name)
        if hint is None:
            default = parameter.default
            found[name] = () if default in (parameter.empty, None) else (type(default),)
            continue
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        found[name] = tuple(get_origin(part) or part for part in parts)
    return found


def split_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the values of a trial into those of the constructor and those of the plan.

    >>> split_values({"latent_dim": 3, "lr": 0.1})
    ({'latent_dim': 3}, {'lr': 0.1})
    """
    own = {name: value for name, value in values.items() if name not in PLAN}
    return own, {name: value for name, value in values.items() if name in PLAN}


def _choices(name: str, given: Mapping[str, Any]) -> Choices:
    values = given.get("choices")
    if set(given) != {"choices"} or not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f'space: {name} is {said(given)}: it must be {{"choices": [...]}} with at least one of them')
    try:
        texts = tuple(json.dumps(value, allow_nan=False) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"space: choices of {name} must be plain values: numbers, text, true, false, lists") from None
    if len(set(texts)) < len(texts):
        raise InputError(f"space: choices of {name} name one value twice")
    return Choices(texts)


def _range(name: str, given: Any, kind: tuple[type, ...]) -> Range:
    shape = 'it must be [low, high], [low, high, "log"] or {"choices": [...]}'
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 3):
        raise InputError(f"space: {name} is {said(given)}: {shape}")
    low, high = given[:2]
    real = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high))
    if not real or (len(given) == 3 and given[2] != "log"):
        raise InputError(f"space: {name} is {said(given)}: {shape}")
    if kind and not {int, float} & set(kind):
        words = " or ".join(getattr(one, "__name__", str(one)) for one in kind)
        raise InputError(f'space: {name} is no number but {words}: give it {{"choices": [...]}}')
    whole = isinstance(low, int) and isinstance(high, int) and float not in kind
    if not whole and int in kind and float not in kind:
        raise InputError(f"space: {name} is {said(given)}: it takes whole numbers")
    if low >= high:
        raise InputError(f"space: {name} is {said(given)}: low must be below high")
    if len(given) == 3 and low <= 0:
        raise InputError(f"space: {name} is {said(given)}: with log, low must be above 0")
    return Range(low, high, len(given) == 3, whole)

"""Settings that change while a pair trains: beta, a floor, any number that the pair holds as a tensor."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pyro_vaes.errors import InputError, first_line, number, said, unknown, whole

Schedule = Callable[[int], float]

#: Parts of the names of settings that are scales, shares, thresholds, or weights of a term.
NOT_NEGATIVE = {"beta", "weight", "classifier_weight", "scale", "floor", "share", "broad", "threshold"}


@dataclass(frozen=True)
class Linear:
    """From one value to another in a straight line, then constant: KL warm-up is ``Linear(0, 1, steps)``.

    Args:
        start: the value at step 0. end: the value from step ``steps`` on. steps: at least 1.

    Source: Bowman et al. (2016) and Sonderby et al. (2016) for the warm-up of the KL.

    >>> [Linear(0, 1, 10)(step) for step in (0, 5, 10, 99)]
    [0.0, 0.5, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            number(name, getattr(self, name), low=-float("inf"))
        whole("steps of a schedule", self.steps)

    def __call__(self, step: int) -> float:
        share = min(step / self.steps, 1.0)
        return self.start + (self.end - self.start) * share


def settings(pair: nn.Module) -> dict[str, Tensor]:
    """Every number that the pair holds as a buffer of one entry, by name: what a schedule can change.

    Source: ours.

    >>> from pyro_vaes.variants import ic_vae
    >>> sorted(settings(ic_vae(4, 2, (3,), floor=0.1)))
    ['model.floor.value', 'objective.beta.z']
    """
    return {name: b for name, b in pair.named_buffers() if b.numel() == 1 and b.is_floating_point()}


def find(pair: nn.Module, name: str) -> list[Tensor]:
    """Find a setting by its name or a part of it between dots: ``beta`` for ``objective.beta.z``.

    Raises:
        InputError: if the pair has no such setting.

    >>> from pyro_vaes.variants import ic_vae
    >>> find(ic_vae(4, 2, (3,), floor=0.1), "floor")
    [tensor([0.1000])]
    """
    return list(named(pair, name).values())


def named(pair: nn.Module, name: str) -> dict[str, Tensor]:
    """Find as :func:`find` does, with the whole names."""
    if not isinstance(name, str):
        raise InputError(f"schedules names a setting {said(name)}: a name is text")
    there = settings(pair)
    found = {known: tensor for known, tensor in there.items() if f".{name}." in f".{known}."}
    if not found and name == "lr":
        raise InputError("the learning rate has a schedule of its own: schedule='cosine' or 'constant'")
    if not found:
        raise unknown("setting", str(name), list(there))
    return found


def at(name: str, schedule: Schedule, step: int, low: float = -math.inf) -> float:
    """Give the value of a schedule at a step, or refuse it.

    >>> at("beta", lambda step: -1.0, 3, low=0.0)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: the schedule of beta at step 3 is -1.0: it must be finite and at least 0
    """
    try:
        value = schedule(step)
    except Exception as error:
        raise InputError(f"the schedule of {name} cannot run at step {step}: {first_line(error)}") from error
    return number(f"the schedule of {name} at step {step}", value, low)


def lowest(pair: nn.Module, name: str) -> float:
    """How low a setting may go: below 0 only what is no scale and no weight of a term.

    >>> from pyro_vaes.variants import ic_vae
    >>> lowest(ic_vae(4, 2, (3,), floor=0.1), "floor")
    0.0
    """
    return 0.0 if all(NOT_NEGATIVE & set(known.split(".")) for known in named(pair, name)) else -math.inf


def check_schedule(pair: nn.Module, name: str, schedule: Schedule) -> None:
    """Refuse a schedule that begins, or as a line ends, out of range; or that would make unlike settings alike.

    Raises:
        InputError: naming the setting and what is allowed.
    """
    there = {known: tensor.item() for known, tensor in named(pair, name).items()}
    if len(set(there.values())) > 1:
        each = ", ".join(f"{known} is {value:g}" for known, value in there.items())
        raise InputError(
            f"the schedule of {name} would make equal what differs ({each}): give each its own, by its name"
        )
    for step in (0, schedule.steps) if isinstance(schedule, Linear) else (0,):
        at(name, schedule, step, lowest(pair, name))


def read(schedules: Mapping[str, Schedule | Sequence[float]] | None) -> dict[str, Schedule]:
    """Take schedules as functions of the step, or as (start, end, steps).

    >>> read({"beta": (0.0, 1.0, 100)})
    {'beta': Linear(start=0.0, end=1.0, steps=100)}
    """
    if schedules is not None and not isinstance(schedules, Mapping):
        raise InputError(f"schedules is {schedules!r}: it must name settings, such as {{'beta': (0, 1, 1000)}}")
    found: dict[str, Schedule] = {}
    for name, given in (schedules or {}).items():
        if callable(given):
            found[name] = given
        elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 3:
            steps = int(given[2]) if isinstance(given[2], float) and given[2].is_integer() else given[2]
            found[name] = Linear(given[0], given[1], whole("steps of a schedule", steps))
        else:
            raise InputError(
                f"schedule of {name} is {given!r}: it must be a function of the step, or (start, end, steps)"
            )
    return found

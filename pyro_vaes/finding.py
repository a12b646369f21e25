"""What an audit says in a line: a verdict, and what it rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyro_vaes.errors import unknown

VERDICTS = ("good", "caution", "bad", "not tested")


@dataclass(frozen=True)
class Finding:
    """The verdict of one test, in words that need no table.

    Args:
        test: its name, such as ``k-hat``.
        question: what it answers, ending in a question mark.
        verdict: ``good``, ``caution``, ``bad`` or ``not tested``.
        said: what was found, and what follows from it, in a line; for ``not tested`` why.
        numbers: what the verdict rests on, plain values by name.

    Raises:
        InputError: for another verdict.

    >>> print(Finding("k-hat", "do weights correct the guide?", "good", "k-hat below 0.7 for all 64 data"))
    good        k-hat: k-hat below 0.7 for all 64 data
    """

    test: str
    question: str
    verdict: str
    said: str
    numbers: Mapping[str, float | int | str | list | None] = field(default_factory=dict)

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise unknown("verdict", self.verdict, VERDICTS)

    def __str__(self) -> str:
        return f"{self.verdict:<11} {self.test}: {self.said}"

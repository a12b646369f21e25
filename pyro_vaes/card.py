"""A variant's card: what the first paragraph of its docstring says."""

from collections.abc import Callable
from typing import Any


def card(function: Callable[..., Any]) -> dict[str, str]:
    """Read a variant's card: p, q, objective and source, in words.

    >>> from pyro_vaes.variants import l2_vae
    >>> card(l2_vae)["objective"]
    'ELBO'
    """
    paragraph = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    *distributions, objective, source = paragraph.rstrip(".").split(" | ")
    named = dict(part.split(": ", 1) for part in distributions)
    both = named.get("p, q", "")
    return {"p": named.get("p", both), "q": named.get("q", both), "objective": objective, "source": source}

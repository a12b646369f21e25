"""The code of a written posterior as columns: which of them are used, and what they are called."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyro_vaes.evaluation.aggregated import ACTIVE

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True)
class Latents:
    """Real-valued entries of the code, the most used first.

    Attributes:
        names: of K entries, such as ``z[3]``, or ``z[2, 0]`` for entry 0 of block 2.
        draws: (S, N, K), of the guide. prior: (R, N, K), of the model; None where there are none.
        activity: (K,), the variance over the data of the mean over draws, less what the draws leave in it.
    """

    names: list[str]
    draws: np.ndarray
    prior: np.ndarray | None
    activity: np.ndarray

    @property
    def used(self) -> int:
        """How many have an activity above 0.01 (Burda, Grosse & Salakhutdinov 2016, 5.2)."""
        return int((self.activity > ACTIVE).sum())


def values(tree: "DataTree", group: str, name: str) -> np.ndarray:
    """A variable, or a coordinate, of one group."""
    found: np.ndarray = tree[group].variables[name].values
    return found


def latents(tree: "DataTree") -> Latents:
    """Take the code's entries out of a tree; classes and switches, which are 0 or 1 throughout, are left out.

    >>> import torch
    >>> from pyro_vaes.analysis.tree import to_datatree
    >>> from pyro_vaes.variants import bcvae
    >>> pair = bcvae(data_dim=8, shape=(1, 8), hidden=(6, 4), latent_dim=4, blocks=2)
    >>> sorted(latents(to_datatree(pair, torch.ones(3, 8), draws=9)).names)
    ['z[1, 0]', 'z[1, 1]', 'z[2, 0]', 'z[2, 1]']
    """
    names, columns, before = list[str](), list[np.ndarray](), list[np.ndarray]()
    for site, variable in tree["posterior"].data_vars.items():
        array = variable.values[0]
        if np.isin(array, (0, 1)).all():
            continue
        own = variable.dims[3:]
        places = np.stack(np.meshgrid(*[values(tree, "posterior", str(d)) for d in own], indexing="ij"), -1).reshape(
            -1, len(own)
        )
        names += [f"{site}[{', '.join(map(str, place))}]" if own else str(site) for place in places]
        columns.append(array.reshape(*array.shape[:2], -1))
        if "prior" in tree.children:
            prior = values(tree, "prior", str(site))[0]
            before.append(prior.reshape(*prior.shape[:2], -1))
    draws = np.concatenate(columns, -1)
    noise = draws.var(0, ddof=1).mean(0) / len(draws) if len(draws) > 1 else 0.0
    activity = draws.mean(0).var(0, ddof=min(1, draws.shape[1] - 1)) - noise
    order = np.argsort(-activity, kind="stable")
    prior = np.concatenate(before, -1)[..., order] if before else None
    return Latents([names[i] for i in order], draws[..., order], prior, activity[order])

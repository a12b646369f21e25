"""New data of a model: given the codes of data, or from the prior."""

from collections.abc import Mapping

import pyro
import pyro.poutine as poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vaes.analysis.target import Sites
from pyro_vaes.errors import first_line
from pyro_vaes.inference.densities import Values, quietly, run, seed_at
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.objective import sampled_sites
from pyro_vaes.inference.posterior import recorded
from pyro_vaes.pair import Pair


def replicate(
    pair: Pair, size: int, y: Tensor | None, draws: int, codes: Mapping[str, Tensor]
) -> tuple[Values, Tensor]:
    r"""Draw x and all sites that are not given from the model: :math:`x^{rep} \sim p(x | z) = \int p(x, s | z) ds`.

    The model is not shown the data, so that an outlier, a precision, or a covariance of the datum's own is drawn anew:
    at the outlier s = x - mu(z) of the data themselves, the replica would be the data again.

    Args:
        size: B, how many data. y: (B, c) or None. draws: S. codes: site -> (S, B, ...); none for the prior.

    Returns:
        Site -> (S, B, ...) with ``x`` among them, and the clean data (S, B, d).

    Raises:
        NotImplementedError, ValueError: where a site is needed that cannot be drawn.

    >>> import torch
    >>> from pyro_vaes.variants import ic_vae
    >>> pair = ic_vae(4, 2, (5,))
    >>> with quietly(pair):
    ...     values, mean = replicate(pair, 3, None, 2, {"z": torch.zeros(2, 3, 2)})
    >>> sorted(values), mean.shape
    (['s', 'x', 'z'], torch.Size([2, 3, 4]))
    """
    program = pyro.plate("particles", draws, dim=-2)(poutine.condition(pair.model, dict(codes)))
    trace = prune_subsample_sites(poutine.trace(program).get_trace(None, y, size=size))
    values = {name: site["value"] for name, site in sampled_sites(trace)} | {"x": trace.nodes["x"]["value"]}
    return values, recorded(trace, "mu", "mean").expand(values["x"].shape)


def drawable(pair: Pair, x: Tensor, y: Tensor | None, sites: Sites) -> tuple[str, str]:
    """Why no new data can be drawn, given codes and from the prior: empty strings where they can."""
    rows, y = as_batch(x[:2]), None if y is None else y[:2]
    found = []
    with quietly(pair):
        seed_at(0)
        q = run(pair.guide, rows, y, 2, {})
        for codes in ({name: q[name]["value"] for name in sites.code}, {}):
            try:
                replicate(pair, len(rows), y, 2, codes)
                found.append("")
            except (NotImplementedError, ValueError) as error:
                found.append(f"a site of {pair.name} is improper and cannot be drawn ({first_line(error)})")
    return found[0], found[1]

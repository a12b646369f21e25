"""What a trained pair says about the class of data."""

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, said, whole
from pyro_vaes.inference.guard import as_batch, check_data
from pyro_vaes.pair import Pair


def classify(pair: Pair, x: Tensor, *, site: str = "y_unobserved", batch_size: int = 512) -> Tensor:
    """Give the probabilities of the classes for data without a label, (N, c).

    They are q(y | x) of a pair whose guide has the class as a latent site, or what the objective's own classifier says
    (:class:`~pyro_vaes.inference.classifier_gan.ClassifierGAN`).

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. site: of the class in the guide. batch_size: rows at a time.

    Raises:
        InputError: for bad data, or a pair that has neither.

    Source: Kingma et al. (2014), 3.1.2, for M2; Shang et al. (2017), 4.5, for the classifiers.

    >>> from pyro_vaes.variants import m2_vae
    >>> classify(m2_vae(4, condition_dim=3, hidden=(5,)), torch.ones(2, 4)).sum(1).round()
    tensor([1., 1.])
    """
    check_data(pair, x, support=False)
    whole("batch_size", batch_size)
    if not isinstance(site, str):
        raise InputError(f"site is {said(site)}: it must be the name of a site")
    pair.eval()
    parts = []
    with torch.random.fork_rng(), torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for start in range(0, len(x), batch_size):
            batch = as_batch(x[start : start + batch_size])
            parts.append(_probabilities(pair, batch, site))
    return torch.cat(parts)


def _probabilities(pair: Pair, x: Tensor, site: str) -> Tensor:
    own = getattr(pair.objective, "probabilities", None)
    if callable(own):
        return own(x)
    y = x.new_zeros(len(x), pair.condition_dim) if pair.condition_dim else None
    found: Any = poutine.trace(pair.guide).get_trace(x, y).nodes.get(site)
    if found is None or not hasattr(found["fn"], "probs") or not pair.partial:
        raise InputError(f"{pair.name} guesses no class: its guide has no site {site!r} with probabilities")
    return found["fn"].probs

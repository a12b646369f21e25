"""What the experiments on likelihoods share: binary test digits, and the numbers that a trained pair is judged by."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vaes.data import Dataset, load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.inference.annealed import Annealing
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.likelihood import log_likelihood
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.posterior import active_units, bound
from pyro_vaes.pair import Pair

CHUNK = 100


def static_test(root: Path, rows: int, kind: str = "static") -> Dataset:
    """The first test digits, binary: static ones by Larochelle's file where it lies in the root."""
    return binarised(load("mnist", root=root, split="test", limit=rows), kind, root=root, split="test")


def measures(
    pair: Pair, x: Tensor, y: Tensor | None = None, *, samples: int, data: int | None = None, seed: int = 0
) -> tuple[dict[str, Any], list[float]]:
    """Judge a trained pair by data it has not seen, in nats per datum.

    Args:
        x: (N, d), binary. y: labels of a conditional pair. samples: S of the importance sampling.
        data: importance-sample the first so many rows only; the bounds are means over all.

    Returns:
        ``own``: minus the loss of the pair's own objective, beta, corruption and all; ``elbo``: the ELBO, of the same p
        and q on the data as they are; ``nll``: -log p(x) by S importance samples, ``nll se``: its Monte-Carlo error;
        ``k-hat``: the share of data whose k-hat is above 0.7; ``active units``. And log p(x) of every datum.
    """
    pair = pair.eval()
    own = -_loss(pair, x, y, seed)
    trained_by, pair.objective = pair.objective, ELBO()
    try:
        elbo = bound(pair, x, y, seed=seed)
    finally:
        pair.objective = trained_by
    some, labels = x[:data], None if y is None else y[:data]
    found = log_likelihood(pair, some, labels, samples=samples, chunk=CHUNK, batch_size=50, seed=seed)
    numbers = {
        "own": own, "elbo": elbo, "nll": -found.mean, "nll se": found.mean_se, "k-hat": found.unreliable,
        "active units": active_units(pair, x) if y is None else None,
    }  # fmt: skip
    return numbers, found.value.tolist()


def _loss(pair: Pair, x: Tensor, y: Tensor | None, seed: int) -> float:
    y = check_condition(pair, x, y)
    losses = []
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for start in range(0, len(x), 500):
            rows = slice(start, start + 500)
            losses.append(pair(x[rows], None if y is None else y[rows]).total * len(x[rows]))
    return torch.stack(losses).sum().item() / len(x)


def annealed(pair: Pair, x: Tensor, *, samples: int, seed: int = 0) -> dict[str, float]:
    """Estimate log p(x) of a few data by annealing from the guide, and by importance sampling: an error of the latter.

    Both are lower bounds in expectation, so that the larger one is nearer to the truth.
    """
    path = Annealing(temperatures=40, leapfrog=8, start="guide")
    by_steps = log_likelihood(pair, x, method="ais", samples=16, annealing=path, batch_size=len(x), seed=seed)
    at_once = log_likelihood(pair, x, samples=samples, chunk=CHUNK, batch_size=len(x), seed=seed)
    return {"ais": by_steps.mean, "ais se": by_steps.mean_se, "is": at_once.mean}


def packed(pictures: Tensor) -> str:
    """Write pictures in [0, 1] as text, one byte a pixel, so that a cell can hold them.

    >>> unpacked(packed(torch.tensor([[0.0, 1.0]])), 2)
    tensor([[0., 1.]])
    """
    pixels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return base64.b64encode(zlib.compress(pixels.tobytes())).decode()


def unpacked(text: str, entries: int) -> Tensor:
    """Read pictures back: (rows, entries)."""
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return torch.from_numpy(pixels.reshape(-1, entries).copy()).float() / 255


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean over seeds, and with more than one of them the half width of its 95 % interval.

    >>> spread([1.0, 2.0]), spread([1.0])
    ('1.50 ± 6.35', '1.00')
    """
    from pyro_vaes.experiments.verdicts import interval

    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    mean, low, _ = interval(values)
    return f"{mean:.{digits}f} ± {mean - low:.{digits}f}"

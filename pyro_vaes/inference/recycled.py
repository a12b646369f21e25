"""Recycling: what the model made of a datum goes in again as a new datum."""

import math
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, said, whole
from pyro_vaes.inference.objective import Loss, Objective
from pyro_vaes.inference.stock import Stock


class _Likelihood(Messenger):
    """Remember the distribution at the observed site ``x`` of whatever model runs inside, and its site ``mu``."""

    fn: Any = None
    mu: Tensor | None = None

    def _pyro_post_sample(self, msg):
        if msg["name"] == "x" and msg["is_observed"]:
            self.fn = msg["fn"]
        elif msg["name"] == "mu":
            self.mu = msg["value"]


class Recycled(nn.Module):
    r"""Sum an objective over N passes, each on a draw from the likelihood of the pass before.

    .. math:: \mathcal{L}_N = \sum_{k=1}^{N} \mathcal{L}(X_k), \qquad x_{k+1} \sim p(x \mid z_k), \quad
              z_k \sim q(z \mid x_k)

    With :class:`~pyro_vaes.models.index_conditional.IndexConditional` that is
    :math:`x_{k+1} \sim \mathcal{N}(\mu(z_k), (x_k - \mu(z_k))^2)`, the recurrent iC-VAE.

    Args:
        objective: any objective of the library, one of Pyro's own included.
        passes: N, at least 1; ``passes=1`` is ``objective`` itself. The cost is linear in N.
        recycle_grad: let gradients flow through the recycled datum. By default it is cut there, so that each pass
            is a bound on data that are given; a network that may move its own data can move them to where the
            log-loss has no floor.
        clip: (low, high) to keep recycled data in, or None.
        mean: hand on the clean datum instead of a draw: the site ``mu`` where the model records one, since the mean of
            its likelihood then includes the outlier, and the likelihood's mean elsewhere.

    Raises:
        InputError: for passes < 1, or under ``recycle_grad`` a likelihood that cannot be reparameterised, or one of
            Pyro's estimators that computes its own gradients.

    The bound that is shown is that of the first pass, on the data themselves. With several particles the first one's
    draw goes on.

    Source: Wang et al. (2018), IV, Eq. 21-22. The source draws solid arrows for gradients but its text does not
    say which; it does not say whether draws are clipped: we cut and do not clip, and leave both as arguments.

    >>> from pyro_vaes.variants import ric_vae
    >>> _ = torch.manual_seed(0)
    >>> pair = ric_vae(data_dim=4, latent_dim=2, hidden=(5,), passes=3)
    >>> sorted(pair.objective(pair.model, pair.guide, torch.rand(3, 4)).terms)
    ['sigma@1', 'sigma@2', 'sigma@3', 'x@1', 'x@2', 'x@3', 'z@1', 'z@2', 'z@3']
    """

    def __init__(
        self,
        objective: Objective,
        passes: int = 2,
        recycle_grad: bool = False,
        clip: tuple[float, float] | None = None,
        mean: bool = False,
    ):
        whole("passes", passes)
        for name, flag in (("recycle_grad", recycle_grad), ("mean", mean)):
            if not isinstance(flag, bool):
                raise InputError(f"{name} is {flag!r}: it must be True or False")
        if not callable(objective):
            raise InputError(f"objective is {objective!r}: it must be callable, such as ELBO()")
        if clip is not None:
            pair = isinstance(clip, tuple | list) and len(clip) == 2
            low, high = (number("clip", end, low=-math.inf) for end in clip) if pair else (0.0, 0.0)
            if not low < high:
                raise InputError(f"clip is {said(clip)}: it must be (low, high) with low < high")
        if recycle_grad and isinstance(objective, Stock) and not hasattr(objective.estimator, "differentiable_loss"):
            raise InputError(f"{objective!r} computes its own gradients: recycle_grad cannot flow through it")
        super().__init__()
        self.objective, self.passes, self.recycle_grad, self.clip = objective, passes, recycle_grad, clip
        self.mean = mean

    def __repr__(self) -> str:
        extra = ", recycle_grad=True" if self.recycle_grad else ""
        extra += f", clip={self.clip}" if self.clip else ""
        extra += ", mean=True" if self.mean else ""
        return f"Recycled({self.objective!r}, passes={self.passes}{extra})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        terms: dict[str, Tensor] = {}
        losses = []
        for k in range(1, self.passes + 1):
            with _Likelihood() as likelihood:
                loss = self.objective(model, guide, x, y, size=size)
            losses.append(loss)
            suffix = f"@{k}" if self.passes > 1 else ""
            terms |= {f"{name}{suffix}": term for name, term in loss.terms.items()}
            if k < self.passes:
                x = self._next(likelihood, like=x)
        return Loss(torch.stack([loss.total for loss in losses]).sum(), terms, losses[0].bound)

    def _next(self, seen: _Likelihood, like: Tensor) -> Tensor:
        likelihood = seen.fn
        if self.recycle_grad and not (self.mean or likelihood.has_rsample):
            raise InputError(f"recycle_grad needs a reparameterised likelihood, not {type(likelihood).__name__}")
        with torch.set_grad_enabled(self.recycle_grad):
            if self.mean:
                x = likelihood.mean if seen.mu is None else seen.mu
            else:
                x = likelihood.rsample() if self.recycle_grad else likelihood.sample()
            x = x.reshape(-1, *like.shape)[0]
            # The mean is a tensor that the pass has made, with its history.
            x = x if self.recycle_grad else x.detach()
            return x if self.clip is None else x.clamp(*self.clip)

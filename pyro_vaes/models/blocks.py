"""p(z_1) ... p(z_T) p(x | u(z_1 ... z_T)): blocks of channels, woven together before they are decoded."""

import pyro
import torch
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class LatentBlocks(PyroModule):
    r"""Generate data from T independent codes by way of a representation u that is a function of them.

    .. math:: \prod_{t=1}^{T} p(z_t)\; p(x \mid u), \qquad p(z_t) = \mathcal{N}(z_t; 0, I), \quad
              u_t = f_t(z_1, \dots, z_t)

    Args:
        prior: gives p(z_t) when called, the same for all t.
        blocks: T, the number of sites z_1 ... z_T.
        recurrence: f, z (..., T, k / T) -> u (..., T, m), recorded as the deterministic site ``u``.
        likelihood: u as a vector (..., T m) -> p(x | u).

    Source: Shang et al. (2017), 3. Their Eq. 2 and Prop. A.1 bound log p(u) for a u that is random, observed, and given
    u_{t-1} and z_t independent of what came before. Here u is deterministic, as it is "in practice" there, an LSTM's
    u_t depends on all of z_1 ... z_t, and what is bounded is log p(x): we take the proposition as an intuition for why
    each step may be easier, not as this model's bound.

    >>> from pyro_vaes.models.likelihoods import BernoulliPixels
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> LatentBlocks(StandardPrior(2), 3, torch.nn.Identity(), BernoulliPixels(torch.nn.Linear(6, 4)))(size=5).shape
    torch.Size([5, 4])
    """

    def __init__(self, prior, blocks, recurrence, likelihood):
        super().__init__()
        self.prior, self.blocks, self.recurrence, self.likelihood = prior, blocks, recurrence, likelihood

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = [pyro.sample(f"z_{t}", self.prior()) for t in range(1, self.blocks + 1)]
            # One block may be given for all particles, and the others drawn for each.
            blocks = torch.stack(torch.broadcast_tensors(*z), -2)
            u = pyro.deterministic("u", self.recurrence(blocks), event_dim=2)
            return pyro.sample("x", self.likelihood(u.flatten(-2)), obs=x)

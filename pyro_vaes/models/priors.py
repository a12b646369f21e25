"""p(z) that is learned: mixtures, of Gaussians of their own or of the guide's; or fitted to codes afterwards."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vaes.distributions import ChannelNormal
from pyro_vaes.errors import InputError, number, whole


class Mixture(dist.MixtureSameFamily):
    """A mixture on all of R^k: torch's own does not say that its support is, and NUTS would not know."""

    support = constraints.real_vector


class MixturePrior(nn.Module):
    r"""Give p(z), a mixture of Gaussians that is learned.

    .. math:: p(z) = \sum_{c=1}^{C} \pi_c\, \mathcal{N}(z; m_c, \mathrm{diag}\, s_c^2)

    Args:
        latent_dim: k. components: C, at least 1.

    It starts with even weights, centres from N(0, I / 4) and scales :math:`\sqrt{3}/2`, so that it is about as wide as
    N(0, I). Pyro scores it with the sum over c done, so that there is no discrete site.

    Source: the "MoG" of Tomczak & Welling (2018), 5; where it starts is ours.

    >>> MixturePrior(3, components=4)().event_shape
    torch.Size([3])
    """

    def __init__(self, latent_dim: int, components: int = 10):
        super().__init__()
        whole("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.5 * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.full((components, latent_dim), 0.5 * math.log(0.75)))

    def forward(self):
        parts = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return Mixture(dist.Categorical(logits=self.logits), parts)


class EntryMixture(dist.MixtureSameFamily):
    """A mixture on the real line for every entry: see :class:`Mixture`."""

    support = constraints.real


class SourcePrior(nn.Module):
    r"""Give p(z), independent entries whose shapes are learned, each of mean 0 and variance 1.

    .. math:: p(z) = \prod_{j=1}^{k} \sum_{c=1}^{C} \pi_{jc}\,
              \mathcal{N}\Big(z_j; \frac{m_{jc} - \bar m_j}{v_j}, \frac{s_{jc}^2}{v_j^2}\Big), \qquad
              \bar m_j = \sum_c \pi_{jc} m_{jc}, \quad
              v_j^2 = \sum_c \pi_{jc} \big(s_{jc}^2 + (m_{jc} - \bar m_j)^2\big)

    A mixture, because it has both kinds of shape that sources come in: one wide and one narrow component make a heavy
    tail, components side by side a flat or bimodal density, and it may be skewed. Student's t has heavy tails only,
    the generalised normal one mode only. Centre and width are fixed, since a linear decoder carries them in its bias
    and in the lengths of its columns. C = 1 is N(0, I) exactly, whatever the parameters are.

    Args:
        latent_dim: k. components: C, at least 1.

    It starts with even weights and with centres and widths drawn so that it is near to N(0, I), and of no one kind.

    Source: the parameterised prior of S3, V; a mixture of Gaussians for each source is that of Attias (1999), 2. The
    fixed centre and width, and where it starts, are ours.

    >>> SourcePrior(3, components=4)().event_shape
    torch.Size([3])
    """

    def __init__(self, latent_dim: int, components: int = 3):
        super().__init__()
        whole("components", components)
        self.logits = nn.Parameter(torch.zeros(latent_dim, components))
        self.loc = nn.Parameter(0.5 * torch.randn(latent_dim, components))
        self.log_scale = nn.Parameter(0.25 * torch.randn(latent_dim, components))

    def forward(self):
        weight, scale = self.logits.softmax(-1), self.log_scale.exp()
        loc = self.loc - (weight * self.loc).sum(-1, keepdim=True)
        width = (weight * (scale.square() + loc.square())).sum(-1, keepdim=True).sqrt()
        parts = dist.Normal(loc / width, scale / width)
        return EntryMixture(dist.Categorical(logits=self.logits), parts).to_event(1)


class VampPrior(nn.Module):
    r"""Give p(z), the guide's own answer to C data that are learned.

    .. math:: p(z) = \frac{1}{C} \sum_{c=1}^{C} q(z \mid u_c), \qquad u_c = \mathrm{sigmoid}(a_c)

    The best prior for a guide is its mean over the data; this is that mean over C pseudo-inputs. From the grey start
    they are nearly alike, so that the mixture may remain a single Gaussian: where data come in kinds, start at data.

    Args:
        encoder: u (..., d) -> (mu_z, sigma_z), the very encoder of the guide.
        data_dim: d, entries of a pseudo-input, which lies in (0, 1). components: C, at least 1.
        grey: in (0, 1), what pseudo-inputs start near, each entry with a little noise of its own;
            :meth:`place` starts them at data instead.

    Source: Tomczak & Welling (2018), Eq. 9. Of the two squashing functions in versions of the authors' code it is the
    sigmoid: an entry that is cut off at 0 or 1 would never move again.

    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> VampPrior(GaussianEncoder(8, [5], 3), data_dim=8, components=4)().event_shape
    torch.Size([3])
    """

    even: Tensor

    def __init__(self, encoder: nn.Module, data_dim: int, components: int = 500, grey: float = 0.05):
        super().__init__()
        whole("components", components)
        if not 0 < number("grey", grey) < 1:
            raise InputError(f"grey is {grey}: it must be between 0 and 1")
        self.encoder = encoder
        # A fifth on this scale is a standard deviation of 0.01 at the authors' start, 0.05.
        self.raw = nn.Parameter(math.log(grey / (1 - grey)) + 0.2 * torch.randn(components, data_dim))
        self.register_buffer("even", torch.zeros(components))

    def inputs(self) -> Tensor:
        """The pseudo-inputs, (C, d) in (0, 1)."""
        return self.raw.sigmoid()

    def place(self, x: Tensor) -> None:
        """Start the pseudo-inputs at data.

        Args:
            x: (C, d) in [0, 1]; values within 0.01 of an end start there, since the end itself is never reached.

        >>> prior = VampPrior(nn.Identity(), data_dim=2, components=1)
        >>> prior.place(torch.tensor([[0.0, 0.5]]))
        >>> prior.inputs().detach()
        tensor([[0.0100, 0.5000]])
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"data that are to be pseudo-inputs are {what}: they must be floats in [0, 1]")
        if x.shape != self.raw.shape:
            raise InputError(f"data of shape {tuple(x.shape)} cannot be the pseudo-inputs, {tuple(self.raw.shape)}")
        if not ((x >= 0) & (x <= 1)).all():
            raise InputError("data that are to be pseudo-inputs must lie in [0, 1]")
        with torch.no_grad():
            self.raw.copy_(x.clamp(0.01, 0.99).logit())

    def forward(self):
        loc, scale = self.encoder(self.inputs())
        return Mixture(dist.Categorical(logits=self.even), dist.Normal(loc, scale).to_event(1))


class ChannelPrior(nn.Module):
    r"""Give p(z), a Gaussian for every channel of a code, with a covariance between the channel's cells.

    .. math:: p(z) = \prod_{k=1}^{c} \mathcal{N}(z_k; \mu_k, A_k A_k^\top)

    Args:
        channels: c. cells: m = height times width of the code; z is flat, channel after channel, c m entries.

    It starts as N(0, I), and no gradient moves it: mu and A are buffers, which :meth:`place` sets.

    Source: the "empirical cVAE" of Shang et al. (2017), 3.

    >>> ChannelPrior(3, cells=4)().event_shape
    torch.Size([12])
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(self, channels: int, cells: int):
        super().__init__()
        whole("channels", channels), whole("cells", cells)
        self.register_buffer("loc", torch.zeros(channels, cells))
        self.register_buffer("scale_tril", torch.eye(cells).repeat(channels, 1, 1))

    def place(self, mean: Tensor, covariance: Tensor, jitter: float = 1e-6) -> None:
        r"""Set mean and covariance of every channel.

        .. math:: A_k A_k^\top = \Sigma_k + j_k I, \qquad
                  j_k = \tfrac32 \max\Big(0,\;
                  \mathrm{jitter} \cdot \frac{\mathrm{tr}\, \Sigma_k}{m} - \lambda_{\min}(\Sigma_k)\Big)

        From N codes, N not above the number of cells, a covariance is singular, and p(z) no density. So no eigenvalue
        stays below ``jitter`` times their mean; of a covariance that has none below, nothing is changed.

        Args:
            mean: (c, m). covariance: (c, m, m), symmetric, without negative eigenvalues but for rounding.
            jitter: above 0. Where a channel has no variance at all, it is its own: a narrow spike.

        Raises:
            InputError: for other shapes, or values that are not finite.

        >>> prior = ChannelPrior(1, cells=2)
        >>> prior.place(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0], [0.0, 9.0]]]))
        >>> prior.scale_tril
        tensor([[[2., 0.],
                 [0., 3.]]])
        """
        cells, relative = self.loc.shape[1], number("jitter", jitter, open_low=True)
        for name, value, shape in (("mean", mean, self.loc.shape), ("covariance", covariance, self.scale_tril.shape)):
            if not isinstance(value, Tensor) or value.shape != shape or not torch.isfinite(value).all():
                what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"{name} is {what}: it must be finite, of shape {tuple(shape)}")
        covariance = covariance.double()
        values = torch.linalg.eigvalsh(covariance)
        floor = relative * values.mean(1)
        floor = torch.where(floor > 0, floor, relative)
        added = (floor - values[:, 0]).clamp(min=0)
        identity = torch.eye(cells, dtype=covariance.dtype, device=covariance.device)
        # Half as much again where it is needed: exactly at the floor, rounding could end below 0.
        factor = torch.linalg.cholesky(covariance + 1.5 * added[:, None, None] * identity)
        with torch.no_grad():
            self.loc.copy_(mean)
            self.scale_tril.copy_(factor)

    def forward(self):
        return ChannelNormal(self.loc, self.scale_tril)

"""What the field needs and Pyro lacks: the Jeffreys prior of a sparse outlier, and a Gaussian channel by channel."""

import math

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, register_kl


class Jeffreys(TorchDistribution):
    r"""The Jeffreys prior of an outlier, with a floor that keeps its pole finite.

    .. math:: p(s) = \frac{1}{2 \operatorname{asinh}(R / \epsilon)} \frac{1}{\sqrt{s^2 + \epsilon^2}},
              \qquad |s| \le R

    With :math:`\epsilon \to 0` this is the scale-invariant :math:`p(s) \propto 1 / |s|` of the source. The floor
    :math:`\epsilon` is the error below which a residual no longer counts as one. On :math:`|s| \le R` the density is
    proper, so that it can be sampled and its floor can be *learned* by maximum likelihood: without the normaliser a
    small floor would always win.

    Args:
        floor: :math:`\epsilon > 0`, in the units of x; any shape.
        width: :math:`R > 0`, the largest residual that can occur: 1 for pixels in [0, 1] and a mean in [0, 1].
            ``math.inf`` gives the improper density of the source, without a normaliser; it cannot be sampled.

    Raises:
        ValueError: for a floor that is not positive, or a draw from the improper density.

    Source: Wang, Dai, Hua, Aston & Wipf (2018), III-A and III-C. Departs from it: the source has no floor and no
    bound, so that its density is improper and one residual at zero is worth infinitely much. Outside of
    :math:`[-R, R]` the kernel goes on instead of falling to zero, so that a gradient exists everywhere.

    >>> prior = Jeffreys(torch.tensor(0.1))
    >>> round(prior.log_prob(torch.linspace(-1, 1, 20001)).exp().mean().item() * 2, 3)
    1.0
    """

    arg_constraints = {"floor": constraints.positive}  # noqa: RUF012 (torch's own convention)
    support = constraints.real
    has_rsample = True

    def __init__(self, floor: Tensor, width: float = 1.0, validate_args: bool | None = None):
        self.floor = torch.as_tensor(floor, dtype=torch.get_default_dtype()) if isinstance(floor, float) else floor
        self.width = float(width)
        if not self.width > 0:
            raise ValueError(f"width is {width}: it must be positive")
        super().__init__(self.floor.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Jeffreys, _instance)
        new.floor = self.floor.expand(batch_shape)
        new.width = self.width
        super(Jeffreys, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def log_normaliser(self) -> Tensor:
        """log 2 asinh(R / floor); zero for the improper density, whose constant is dropped."""
        if math.isinf(self.width):
            return torch.zeros_like(self.floor)
        return torch.log(2 * torch.asinh(self.width / self.floor))

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.floor)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -0.5 * torch.log(value.square() + self.floor.square()) - self.log_normaliser

    def rsample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        if math.isinf(self.width):
            raise ValueError("the improper Jeffreys density cannot be sampled: give it a finite width")
        u = 2 * torch.rand(self._extended_shape(sample_shape), dtype=self.floor.dtype, device=self.floor.device) - 1
        # The inverse of F(s) = asinh(s / floor) / (2 asinh(R / floor)) + 1/2.
        return self.floor * torch.sinh(u * torch.asinh(self.width / self.floor))


class ChannelNormal(TorchDistribution):
    r"""A Gaussian over a vector of c channels of m cells, correlated within a channel, independent between channels.

    .. math:: p(z) = \prod_{k=1}^{c} \mathcal{N}(z_k; \mu_k, A_k A_k^\top), \qquad z = (z_1, \dots, z_c)

    Args:
        loc: mu, (c, m). scale_tril: A, (c, m, m), lower triangular with a positive diagonal.

    Its event is the flat vector, (c m,), channel after channel. There is a closed form for the KL divergence from a
    Gaussian with independent entries.

    >>> p = ChannelNormal(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
    >>> torch.allclose(p.log_prob(torch.ones(6)), torch.distributions.Normal(0, 1).log_prob(torch.ones(6)).sum())
    True
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None):
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(torch.Size(), torch.Size([loc.numel()]), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(ChannelNormal, _instance)
        # The parameters stay as they are: a triangle for every datum would be solved for every datum.
        new.loc, new.scale_tril = self.loc, self.scale_tril
        super(ChannelNormal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self.loc.flatten().expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1).flatten().expand(self.batch_shape + self.event_shape)

    @property
    def log_determinant(self) -> Tensor:
        """log det of all A together."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum()

    @property
    def inverse(self) -> Tensor:
        """The inverse of every A, (c, m, m)."""
        one = torch.eye(self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return torch.linalg.solve_triangular(self.scale_tril, one.expand_as(self.scale_tril), upper=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        found = -0.5 * self.distance(value) - self.log_determinant - 0.5 * self.loc.numel() * math.log(2 * math.pi)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def distance(self, value: Tensor) -> Tensor:
        """The squared Mahalanobis distance of vectors (..., c m) from the mean, (...)."""
        away = value.unflatten(-1, self.loc.shape) - self.loc
        return torch.einsum("cij,...cj->...ci", self.inverse, away).square().sum((-2, -1))

    def rsample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).unflatten(-1, self.loc.shape)
        return (self.loc + torch.einsum("cij,...cj->...ci", self.scale_tril, noise)).flatten(-2)


@register_kl(Independent, ChannelNormal)
def _kl_independent_channels(q: Independent, p: ChannelNormal) -> Tensor:
    r"""The divergence of independent entries, :math:`\mathcal{N}(m, \mathrm{diag}\, s^2)`, from a Gaussian by channels.

    .. math:: \frac12 \sum_k \Big( \mathrm{tr}\, \Sigma_k^{-1} \mathrm{diag}\, s_k^2
              + (m_k - \mu_k)^\top \Sigma_k^{-1} (m_k - \mu_k) - m + \log\det \Sigma_k - \sum \log s_k^2 \Big)
    """
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    mean, scale = q.base_dist.loc, q.base_dist.scale
    precision = p.inverse.square().sum(-2).flatten()  # the diagonal of every inverse covariance
    entries = scale.square() * precision - 1 - 2 * scale.log()
    return 0.5 * (entries.sum(-1) + p.distance(mean)) + p.log_determinant

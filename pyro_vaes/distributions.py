"""What the field needs and Pyro lacks: the Jeffreys prior of a sparse outlier, with its floor."""

import math

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


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

"""q(z | x) that is no Gaussian: a Gaussian pushed through invertible layers, which know x as well."""

import copy
from collections.abc import Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms import ConditionalAffineAutoregressive, ConditionalPlanar
from pyro.nn import ConditionalAutoRegressiveNN, PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyro_vaes.errors import InputError, whole
from pyro_vaes.nn.flows import PlanarHead, quieten
from pyro_vaes.plates import data_plate


class AmortisedFlow(PyroModule):
    r"""Guess the code with an encoder and its own doubt, in a shape that is learned too.

    .. math:: q(z \mid x) = \mathcal{N}(z_0; \mu(x), \mathrm{diag}\, \sigma^2(x))
              \prod_{t=1}^{T} \Big| \det \frac{\partial f_t}{\partial z_{t-1}} \Big|^{-1},
              \qquad z_t = f_t(z_{t-1}; h(x)), \quad z = z_T

    Args:
        encoder: x (..., d) -> (mu, sigma, h), two of (..., k) and (..., c).
        layers: f_1 ... f_T, conditional transforms of Pyro: :func:`planar`, :func:`inverse_autoregressive`,
            :func:`spline`, or others.

    Source: Rezende & Mohamed (2015), 3-4; Kingma et al. (2016), 2-3.

    >>> from pyro_vaes.nn.flows import ContextEncoder
    >>> AmortisedFlow(ContextEncoder(4, [5], 2), planar(2, context=5, flows=3))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder: nn.Module, layers: Iterable[nn.Module]):
        super().__init__()
        self.encoder, self.layers = encoder, nn.ModuleList(layers)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale, h = self.encoder(x)
            transforms = [layer.condition(h) for layer in self.layers]  # type: ignore[operator]
            return pyro.sample("z", Flow(dist.Normal(loc, scale).to_event(1), transforms))


class Flow(dist.TransformedDistribution):
    """A transformed distribution that has a centre, and says so if it cannot be scored.

    A draw that was just made is scored from what its layers remember; another value has to be taken back through them:
    a spline does that in closed form, an inverse autoregressive layer entry by entry, a planar layer not at all.

    Raises:
        InputError: by ``log_prob``, for a value that was not the last draw, if a layer has no inverse.

    >>> flow = Flow(dist.Normal(torch.zeros(2), 1.0).to_event(1), [planar(2, context=3)[0].condition(torch.zeros(3))])
    >>> flow.log_prob(flow.rsample()).shape
    torch.Size([])
    >>> flow.log_prob(torch.zeros(2))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: a planar flow has no inverse: it can score its last draw, but no value that is given
    """

    @property
    def mean(self) -> Tensor:
        """The image of the base's mean: the centre, which is the mean itself where the flow is affine."""
        value = self.base_dist.mean
        for transform in self.transforms:
            # A copy has a memory of its own: a draw that is still to be scored must not be forgotten.
            value = copy.copy(transform)(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        try:
            return super().log_prob(value)
        except KeyError as error:  # Pyro's word for a missing inverse
            raise InputError(
                "a planar flow has no inverse: it can score its last draw, but no value that is given"
            ) from error


def planar(latent_dim: int, context: int, flows: int = 1) -> list[nn.Module]:
    r"""Build planar layers, :math:`f(z) = z + \hat u \tanh(w'z + b)`, with b, u, w linear in the context.

    Source: Rezende & Mohamed (2015), Eq. 10.

    >>> len(planar(2, context=5, flows=3))
    3
    """
    whole("flows", flows)
    return [ConditionalPlanar(PlanarHead(context, latent_dim)) for _ in range(flows)]


def inverse_autoregressive(latent_dim: int, context: int, flows: int = 1, width: int = 64) -> list[nn.Module]:
    r"""Build layers :math:`z_i \to m_i + s_i z_i`, m_i and s_i from a network of h and the entries before i.

    The order of the entries is reversed after every layer.

    Args:
        latent_dim: k, at least 2. width: of the hidden layer, at least k.

    Source: Kingma et al. (2016). Departs from it: not the gated form, which does not start at the
    identity; Pyro bounds log s to [-5, 3].

    >>> [layer.nn.permutation.tolist() for layer in inverse_autoregressive(3, context=5, flows=2)]
    [[0, 1, 2], [2, 1, 0]]
    """
    whole("flows", flows)
    whole("latent_dim of an autoregressive flow", latent_dim, low=2)
    whole("width", width, low=latent_dim)
    layers: list[nn.Module] = []
    for t in range(flows):
        order: Any = torch.arange(latent_dim)
        net: Any = ConditionalAutoRegressiveNN(
            latent_dim, context, [width], permutation=order.flip(0) if t % 2 else order
        )
        quieten(net.layers[-1])
        layers.append(ConditionalAffineAutoregressive(net))
    return layers


def spline(latent_dim: int, context: int, flows: int = 1, width: int = 64, bins: int = 8) -> list[nn.Module]:
    r"""Build autoregressive layers that bend every entry by a monotonic rational-quadratic spline on [-5, 5].

    They are those of ``zuko.flows.NSF``, forwards from the base to z, so that a draw takes one pass.

    Args:
        width: of the two hidden layers. bins: of a spline, at least 2.

    Raises:
        InputError: if zuko is not installed.

    Source: Durkan et al. (2019). Departs from it: drawn in the direction in which it scores, as in Kingma et al.
    (2016), since a guide scores its own draws.

    >>> len(spline(2, context=5, flows=3))
    3
    """
    whole("flows", flows)
    whole("width", width)
    whole("bins", bins, low=2)
    flow = _zuko().flows.NSF(latent_dim, context, bins=bins, transforms=flows, hidden_features=(width, width))
    for layer in flow.transform.transforms:
        quieten(layer.hyper[-1])
    return [ConditionalSpline(layer) for layer in flow.transform.transforms]


class ConditionalSpline(ConditionalTransformModule):
    """A lazy transform of zuko as a conditional transform of Pyro.

    Args:
        lazy: h -> a transform.
    """

    def __init__(self, lazy: nn.Module):
        super().__init__()
        self.lazy = lazy

    def condition(self, context: Tensor) -> Transform:
        return _Remembering(self.lazy(context))


class _Remembering(Transform):
    """A transform of zuko that remembers its last point, so that a draw is scored without a second pass."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, transform):
        super().__init__(cache_size=1)
        self.transform = transform
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)

    def _call(self, x):
        y, log_det = self.transform.call_and_ladj(x)
        self._last = (x, log_det)
        return y

    def _inverse(self, y):
        return self.transform.inv(y)

    def log_abs_det_jacobian(self, x, y):
        known, log_det = self._last
        return log_det if known is x else self.transform.log_abs_det_jacobian(x, y)


def _zuko():
    validated = Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise InputError("spline flows need zuko: pip install 'pyro-vaes[flows]'") from error
    finally:
        # The import of zuko switches the validation of all of torch's distributions off.
        Distribution.set_default_validate_args(validated)
    return zuko

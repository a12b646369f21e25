"""condition(pair, x, mask): the model of a pair, given the observed entries of data only, as a Pyro program."""

import copy
from collections.abc import Collection
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vaes.inference.completion.field import answers, entries
from pyro_vaes.inference.completion.seen import observed, stand_in
from pyro_vaes.inference.completion.sites import Layout, layout
from pyro_vaes.inference.densities import Values
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.objective import sampled_sites
from pyro_vaes.pair import Pair


def condition(pair: Pair, x: Tensor, mask: Any = None, y: Tensor | None = None) -> "Conditioned":
    r"""Give the model of a pair with the observed entries of data in it, and nothing of the missing ones.

    .. math:: \log p(z, x_{obs}) = \log p(z) + \sum_{j: m_j = 1} \log p(x_j \mid z)

    What comes back is an ordinary Pyro program without arguments, for ``NUTS``, ``SVI`` with a guide of one's own,
    ``Predictive``, or ``poutine.trace``, whose ``log_prob_sum()`` is the sum over data of the above.

    **Sites.** Those of the code, as the model has them; ``x``, observed, with the density of the observed entries; and
    ``x_filled``, which records x with a draw of p(x_j | z) wherever it is missing: what ``Predictive`` is asked for.
    Missing entries are integrated out, entry by entry, and are no latent sites: entries are independent given the code,
    so that nothing is lost, and discrete ones need no enumeration. The weights w of ``t_vae`` and ``rvae`` are
    integrated out too, since the guide knows their posterior: x given z is Student's t, or the mixture. The outliers s
    of ``ic_vae`` and the covariances of ``indexed_ic_vae`` are profiled out: p(x_j | z) is their kernel, up to a
    constant per datum. There ``x_filled`` is what a clean entry would be, :math:`\mathcal{N}(\mu_j(z), \epsilon_j^2)`,
    and no outlier; for ``t_vae`` and ``rvae`` likewise, with their ordinary scale. A weight that a whole datum shares
    (``datum_t_vae``) stays a latent site.

    **Pyro's obs_mask.** ``pyro.sample("x", fn, obs=x, obs_mask=mask)`` does the same to whole draws of a site: it makes
    a site ``x_observed`` and a latent site ``x_unobserved``. A model whose pixels are a plate can be conditioned with
    it entry by entry; those of pairs are one vector. The log-density here is that of such a model without its site
    ``x_unobserved``, which integrates to one.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. NaN is missing.
        mask: (d,) or (N, d), 1 WHERE x IS OBSERVED, 0 where it is missing; None: whatever is not NaN is observed.
        y: conditions, labels (N,) or (N, c), of a conditional pair.

    The program owns a frozen copy of the pair, in eval mode: what is inferred with it trains no decoder.

    Raises:
        InputError: for bad data or masks, and for a likelihood that is no density entry by entry.

    Source: ours; Rubin (1976) for what may be left out of a likelihood.

    >>> from pyro_vaes.variants import l2_vae
    >>> program = condition(l2_vae(3, 2, (4,)), torch.tensor([[0.5, torch.nan, 0.25]]))
    >>> trace = poutine.trace(program).get_trace()
    >>> trace.nodes["z"]["value"].shape, trace.nodes["x_filled"]["value"][0, ::2].tolist()
    (torch.Size([1, 2]), [0.5, 0.25])
    """
    rows, seen = observed(pair, x, mask)
    y = check_condition(pair, rows, y)
    return Conditioned(pair, layout(pair, rows, y, "nuts", kernels=True, classes=True), rows, seen, y)


class Conditioned(nn.Module):
    """What :func:`condition` gives: call it without arguments, as a Pyro model.

    Attributes:
        x: (N, d), with a harmless value at missing entries. seen: (N, d), True where observed.

    Source: ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> x[0, 1] = torch.nan
    >>> program = pv.condition(pair, x)
    >>> int((~program.seen).sum()), bool(program.x.isfinite().all())
    (1, True)
    """

    x: Tensor
    seen: Tensor
    y: Tensor | None

    def __init__(self, pair: Pair, sites: Layout, x: Tensor, seen: Tensor, y: Tensor | None):
        super().__init__()
        self.pair = frozen(pair)
        self.sites = sites
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("seen", seen, persistent=False)
        self.register_buffer("y", y, persistent=False)

    def forward(self) -> Tensor:
        with poutine.block(hide_types=["param"]):
            hidden = (*self.sites.beside, *self.sites.factors, "x")
            with _Aside(hidden) as aside:
                self.pair.model(self.x, self.y)
            likelihood = self._likelihood(aside)
        ordinary = stand_in(aside.values, aside.likelihood)
        with pyro.plate("rows", len(self.x), dim=-1):
            pyro.sample("x", likelihood, obs=self.x)
            with torch.no_grad():
                filled = torch.where(self.seen, self.x, ordinary.sample())
            return pyro.deterministic("x_filled", filled, event_dim=1)

    def _likelihood(self, aside: "_Aside") -> Any:
        if not (self.sites.beside or self.sites.factors):
            return aside.likelihood.base_dist.mask(self.seen).to_event(1)
        # The guide answers for sites beside the code, so that it and the model run again, at the code.
        code = {n: v for n, v in aside.values.items() if n in (*self.sites.free, *self.sites.discrete)}
        with poutine.block():
            q = _sites(self.pair.guide, code, self.x, self.y) if self.sites.beside else {}
            beside = answers(self.sites, q)
            p = _sites(self.pair.model, code | {n: s["value"] for n, s in beside.items()}, self.x, self.y)
            return Entries(entries(self.sites, p, beside)).mask(self.seen).to_event(1)


class Entries(TorchDistribution):
    """A likelihood of which only the log-density of every entry of the datum is known, whatever the value.

    >>> Entries(torch.zeros(3, 4)).to_event(1).log_prob(torch.rand(3, 4))
    tensor([0., 0., 0.])
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own convention)
    support = dist.constraints.real

    def __init__(self, log_density: Tensor, validate_args: bool | None = None):
        self.log_density = log_density
        super().__init__(log_density.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Entries(self.log_density.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_density


class _Aside(Messenger):
    """Keep sites from whoever looks on, at their means; and remember all values, and the likelihood."""

    def __init__(self, sites: Collection[str]):
        super().__init__()
        self.sites, self.values, self.likelihood = sites, dict[str, Tensor](), dist.Delta(torch.zeros(()))

    def _pyro_sample(self, msg):
        if msg["name"] not in self.sites:
            return
        if msg["name"] == "x":
            self.likelihood = msg["fn"]
        if msg["value"] is None:
            # The prior of an outlier may be improper, which cannot be drawn; a class has no mean.
            discrete = msg["fn"].support.is_discrete
            msg["value"] = msg["fn"].sample() if discrete else msg["fn"].mean.detach()
        msg["done"] = msg["stop"] = True

    def _pyro_post_sample(self, msg):
        self.values[msg["name"]] = msg["value"]


def frozen(pair: Pair) -> Pair:
    """Copy a pair whose parameters are constants: none is named in Pyro's store, where programs would share it.

    >>> from pyro_vaes.variants import l2_vae
    >>> list(frozen(l2_vae(3, 2, (4,))).parameters())
    []
    """
    own = copy.deepcopy(pair).eval().requires_grad_(False)
    for module in own.modules():
        # What Pyro keeps in another form stays with Pyro.
        for name in [n for n in module._parameters if not n.endswith("_unconstrained")]:
            value = module._parameters.pop(name)
            module.register_buffer(name, None if value is None else value.detach())
    return own


def _sites(program: nn.Module, values: Values, x: Tensor, y: Tensor | None) -> dict[str, Any]:
    """The sites of a program at given values, whose leading dimensions need no plate."""
    trace = poutine.trace(poutine.condition(program, values)).get_trace(x, y)
    return dict(sampled_sites(prune_subsample_sites(trace)))

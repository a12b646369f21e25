"""Wasserstein autoencoders: reconstruct, and keep all codes together where the prior has its own."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, unknown
from pyro_vaes.inference.adversarial import players
from pyro_vaes.inference.mmd import KERNELS, mmd
from pyro_vaes.inference.objective import Loss, sampled_sites, setting, site_term, traces
from pyro_vaes.inference.optimiser import BETAS
from pyro_vaes.meeting import everyone

PENALTIES = ("mmd", "gan")


class WAE(nn.Module):
    r"""Minimise the reconstruction's cost and the distance of the aggregated posterior from the prior.

    .. math:: \mathcal{L} = - \frac{1}{B} \sum_{i=1}^{B} \log p(x_i \mid z_i)
              + \lambda\, \mathcal{D}\big(\{z_i\}, \{\tilde z_i\}\big), \qquad
              z_i \sim q(z \mid x_i), \quad \tilde z_i \sim p(z)

    The ELBO pulls the code of *every* datum to the prior, this only their union: a point mass is a fine q. The distance
    is the squared MMD (:func:`~pyro_vaes.inference.mmd.mmd`) between the B codes of the batch and B draws of the
    model's own prior, or the loss of a generator whose fakes are the codes and whose real data those draws
    (:func:`~pyro_vaes.inference.adversarial.players`). It is one number per batch: the size of the data set does not
    multiply it.

    **Terms.** ``x``, -log p(x | z) with nothing dropped; ``z``, lambda times the distance; for ``gan`` also
    ``discriminator``, its loss, which is a constant for everything but itself. The total is their sum, so that with
    ``gan`` its value is generator plus discriminator and means nothing by itself: look at the terms, and at the
    discriminator's accuracy, which a run shows beside them (``seen``). **Bound.** What is shown is the sum
    log p(x | z) + log p(z) - log q(z | x), as for any pair. For a Gaussian guide that is a bound on log p(x), which is
    not what is minimised; for a point mass log q is left out, and it is log p(x, z) at the code, which bounds nothing.

    Args:
        penalty: ``mmd`` or ``gan``.
        weight: lambda >= 0, the setting ``objective.weight``. With p(x | z) of variance s^2 the loss is that of the
            paper divided by 2 s^2, and so is its lambda: lambda = 10 for a sum of squares, the paper's for MNIST, is 5
            for s = 1, the default. The authors' code weighs the sum of squares by 0.05: its lambda = 10 is 100 here.
        kernel: of the MMD, ``imq`` or ``rbf``. bandwidth: of it, 2 k by default.
        discriminator: D of ``gan``, codes (B, k) -> logits (B,) or (B, 1).
        rate: its learning rate, as a multiple of the others'.

    Raises:
        InputError: for bad settings, a model with another latent site than z, a prior that cannot be drawn, a batch of
            one row under ``mmd``.

    Source: Tolstikhin, Bousquet, Gelly & Schoelkopf (2018), Algorithms 1 and 2. The default rate is that of the
    authors' settings for MNIST, 1e-3 and for D 5e-4, and so is Adam's first weight against D, 0.5 (``betas``, which
    ``fit`` takes where it is told no other). Their text has 3e-4 and 1e-3, ``rate=10/3``, under which D won
    and the codes collapsed in trials of 1500 steps on digits, which is why it is not. Departs from it: the
    discriminator steps together with the rest, from the same parameters and on the same codes, not before; no
    pretraining of the encoder (the authors' code first matches mean and covariance of its codes to the prior's); no
    log p(z) added to D. A prior that learns is moved by the MMD where it can be reparameterised, and by ``gan`` never.

    >>> from pyro_vaes.variants import wae_mmd
    >>> loss = wae_mmd(data_dim=4, latent_dim=2, hidden=(5,))(torch.rand(3, 4))
    >>> sorted(loss.terms), bool(torch.isclose(sum(loss.terms.values()), loss.total))
    (['x', 'z'], True)
    """

    weight: Tensor

    def __init__(
        self,
        penalty: str = "mmd",
        weight: float = 5.0,
        kernel: str = "imq",
        bandwidth: float | None = None,
        discriminator: nn.Module | None = None,
        rate: float = 0.5,
    ):
        if penalty not in PENALTIES:
            raise unknown("penalty", str(penalty), list(PENALTIES))
        if kernel not in KERNELS:
            raise unknown("kernel", str(kernel), list(KERNELS))
        number("weight", weight)
        if bandwidth is not None:
            number("bandwidth", bandwidth, open_low=True)
        number("rate", rate, open_low=True)
        if penalty == "gan" and not isinstance(discriminator, nn.Module):
            raise InputError("penalty 'gan' needs a discriminator: give a module, codes (B, k) to logits (B,)")
        if penalty == "gan" and (kernel, bandwidth) != ("imq", None):
            raise InputError("kernel and bandwidth are the MMD's: penalty 'gan' has none")
        if penalty == "mmd" and (discriminator is not None or rate != 0.5):
            raise InputError("discriminator and rate are of penalty 'gan': the MMD has none")
        super().__init__()
        self.penalty, self.kernel, self.bandwidth = penalty, kernel, bandwidth
        self._given, self._rate = float(weight), rate
        self.register_buffer("weight", setting(weight), persistent=False)
        self.discriminator = discriminator
        self.least_rows = 2 if penalty == "mmd" else 1
        self.meets = penalty == "mmd"
        self.rate_factors = {"discriminator": rate} if penalty == "gan" else {}
        # Of the authors' settings for MNIST too; at 0.9 the codes collapsed in every trial on digits.
        self.betas = (0.5, 0.999) if penalty == "gan" else BETAS

    def __repr__(self) -> str:
        values = {
            "kernel": (self.kernel, "imq"), "bandwidth": (self.bandwidth, None),
            "discriminator": (self.discriminator, None), "rate": (self._rate, 0.5),
        }  # fmt: skip
        changed = [f", {name}={value!r}" for name, (value, default) in values.items() if value != default]
        return f"WAE({self.penalty!r}, weight={self._given:g}{''.join(changed)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q, p = traces(model, guide, x, y, size, 1)
        nodes: Any = q.nodes
        bound, terms = torch.zeros((), dtype=x.dtype, device=x.device), {}
        for name, site in sampled_sites(p):
            if name != "z" and not site["is_observed"]:
                raise InputError(f"the model draws {name!r}: WAE moves the code 'z', and knows no other latent site")
            cost = site_term(name, site, nodes.get(name), False, False).sum() / (size or len(x))
            bound = bound - cost.detach()
            if name != "z":
                terms[name] = cost
        if "z" not in nodes:
            raise InputError("the guide has no site 'z': WAE moves the codes of that name")
        penalty, seen = self._penalty(nodes["z"]["value"], _drawn(p.nodes["z"]["fn"]))
        terms |= penalty
        return Loss(torch.stack(list(terms.values())).sum(), terms, bound, seen)

    def _penalty(self, codes: Tensor, draws: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of the penalty, and what is seen of it."""
        weight = self.weight.to(codes.dtype)
        if self.discriminator is None:
            return {"z": weight * mmd(everyone(codes), everyone(draws), self.kernel, self.bandwidth)}, {}
        found = players(self.discriminator, real=draws, fake=codes)
        return {"z": weight * found.generator, "discriminator": found.discriminator}, {"accuracy": found.accuracy}


def _drawn(prior: Any) -> Tensor:
    """As many draws of the prior as there are codes."""
    try:
        return prior.rsample() if prior.has_rsample else prior.sample()
    except NotImplementedError:
        raise InputError(
            f"the prior of z ({type(prior).__name__}) cannot be drawn, and WAE compares with draws"
        ) from None

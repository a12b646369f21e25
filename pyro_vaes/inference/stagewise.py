"""Two stages on one hierarchical pair: each has a bound of its own, and no gradient passes between them."""

from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.inference.objective import Loss, setting, site_term, trace_of

CODE, AGAIN = "z", "z@2"


class Stagewise(nn.Module):
    r"""Fit p(u) p(z | u) p(x | z) in two stages, as if they were two autoencoders.

    .. math::
        \mathcal{L}_1 &= -\mathbb{E}_{q(z|x)} \log p(x \mid z)
                         + \beta\, \mathrm{KL}[q(z \mid x) \| \mathcal{N}(0, I)] \\
        \mathcal{L}_2 &= \mathbb{E}_{\bar z \sim q(z|x)} \big( -\mathbb{E}_{q(u|\bar z)} \log p(\bar z \mid u)
                         + \beta\, \mathrm{KL}[q(u \mid \bar z) \| p(u)] \big)

    The first stage knows nothing of p(z | u): its prior is N(0, I). In the second, the draw :math:`\bar z` is a datum,
    cut from whatever it was drawn with. This is not the ELBO of the hierarchy, in which p(z | u) would move q(z | x).

    Args:
        stage: 1 or 2, which of the losses is minimised; 0 for their sum, in which each stage still learns by its own
            loss alone, the second from codes that move. A whole number that stays as it is during one fit:
            :func:`~pyro_vaes.inference.stages.fit_stages` sets it.
        beta: weight of the KL terms, the setting ``objective.beta``; 1 is the bound.
        particles: L, draws of the guide per datum.

    The model draws every latent site but ``z`` above it, and observes ``x``. Terms are called ``x`` and ``z`` (stage
    1), and ``z@2``, where the code is the datum, and ``u`` (stage 2). The bound that is shown is that of the stage: on
    log p(x) under the first stage's prior; on the log-density of a code; and for ``stage=0`` on log p(x) of the
    hierarchy, what :class:`~pyro_vaes.inference.objective.ELBO` shows under the same noise.

    Raises:
        InputError: for another stage, particles < 1, a negative beta, or a guide that has nothing but a site ``z``.

    Source: Dai & Wipf (2019), 4; S3 part IV ("joint training does not work in this
    context"). Departs from them: a mean per datum, and beta.

    >>> from pyro_vaes.variants import two_stage_vae
    >>> pair = two_stage_vae(data_dim=4, latent_dim=2, hidden=(5,), second_hidden=(5,))
    >>> pair.objective.stage = 2
    >>> loss = pair(torch.rand(3, 4))
    >>> sorted(loss.terms), pair.objective
    (['u', 'z@2'], Stagewise(stage=2))
    """

    stages = (1, 2)
    beta: Tensor

    def __init__(self, stage: int = 0, beta: float = 1.0, particles: int = 1):
        super().__init__()
        self.stage = stage
        self.particles = whole("particles", particles)
        self._given = number("beta", beta)
        self.register_buffer("beta", setting(beta), persistent=False)

    @property
    def stage(self) -> int:
        return self._stage

    @stage.setter
    def stage(self, value: int) -> None:
        if isinstance(value, bool) or value not in (0, *self.stages):
            raise InputError(f"stage is {value!r}: it must be 1, 2, or 0 for both")
        self._stage = value

    def __repr__(self) -> str:
        values = {"stage": (self.stage, 0), "beta": (self._given, 1.0), "particles": (self.particles, 1)}
        return f"Stagewise({', '.join(f'{k}={v!r}' for k, (v, default) in values.items() if v != default)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q = trace_of(_Cut(CODE)(guide), x, y, size, self.particles)
        p = trace_of(model, x, y, size, self.particles, at=q)
        per_datum = 1.0 / ((size or len(x)) * self.particles)
        first, second, prior = self._costs(cast(Any, q.nodes), cast(Any, p.nodes))
        first, second = ({n: v.sum() * per_datum for n, v in costs.items()} for costs in (first, second))
        terms = {} if self.stage == 2 else {"x": first["x"], CODE: self._weighed(first[CODE])}
        terms |= {} if self.stage == 1 else {n: v if n == AGAIN else self._weighed(v) for n, v in second.items()}
        shown = {0: {**second, "x": first["x"], CODE: prior.sum() * per_datum}, 1: first, 2: second}[self.stage]
        bound = -torch.stack(list(shown.values())).sum().detach()
        return Loss(torch.stack(list(terms.values())).sum(), terms, bound)

    def _costs(self, q: dict[str, Any], p: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Costs by site of the two stages, and log q(z | x), which with ``z@2`` is what z costs in the hierarchy."""
        drawn = [name for name, site in q.items() if site["type"] == "sample"]
        above = [name for name in drawn if name != CODE]
        if CODE not in drawn or CODE not in p or not above:
            raise InputError(f"Stagewise needs a site {CODE!r} and sites above it: the guide has {drawn}")
        order = list(p)
        below = [name for name in above if name in p and order.index(name) > order.index(CODE)]
        if below:
            raise InputError(f"Stagewise needs sites above {CODE!r}: the model draws {below} after it")
        code = q[CODE]["value"]
        standard = dist.Normal(torch.zeros_like(code), torch.ones_like(code)).to_event(1)
        given = code.detach()
        first = {
            "x": site_term("x", p["x"], None, False, False),
            CODE: site_term(CODE, {**p[CODE], "fn": standard}, q[CODE], False, False),
        }
        second = {AGAIN: -_scaled(p[CODE], p[CODE]["fn"].log_prob(given))}
        second |= {name: site_term(name, p[name], q[name], False, False) for name in above}
        return first, second, _scaled(p[CODE], q[CODE]["fn"].log_prob(given))

    def _weighed(self, term: Tensor) -> Tensor:
        return term * self.beta.to(term.dtype)


def _scaled(site: Any, cost: Tensor) -> Tensor:
    return scale_and_mask(cost, site["scale"], site["mask"])


class _Cut(Messenger):
    """Hand the draw of a site on without its history. A trace outside of this still holds the draw with it."""

    def __init__(self, site: str):
        super().__init__()
        self.site = site

    def _pyro_post_sample(self, msg):
        if msg["name"] == self.site:
            msg["value"] = msg["value"].detach()

"""Images that a discriminator takes for real: the evidence lower bound beside an adversarial loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, unknown
from pyro_vaes.inference.adversarial import players
from pyro_vaes.inference.objective import ELBO, Loss, setting, trace_of, traces
from pyro_vaes.inference.posterior import recorded
from pyro_vaes.meeting import average

FAKES = {"posterior": ("posterior",), "prior": ("prior",), "both": ("posterior", "prior")}


class VAEGAN(ELBO):
    r"""Minimise the negative bound, site by site, and be taken for real by a discriminator D of images.

    .. math::
        \mathcal{L} &= - \mathbb{E}_q \log p(x \mid z) + \beta\, \mathrm{KL}[q(z \mid x) \| p(z)]
            + \lambda \sum_{r \in \text{fakes}} \mathbb{E}_{z \sim r} \big[ - \log \sigma(D(\mu(z))) \big]
            + s\, \mathcal{L}_D, \\
        \mathcal{L}_D &= - \mathbb{E}_x \log \sigma(D(x))
            - \frac{1}{|\text{fakes}|} \sum_{r \in \text{fakes}} \mathbb{E}_{z \sim r} \log (1 - \sigma(D(\mu(z))))

    Real are the images of the batch, fakes the model's means :math:`\mu(z)` (its site ``mu`` where it records one) at
    the guide's draws (``posterior``: r = q, the very draws of the bound) and at as many draws of its prior (``prior``:
    r = p, the model run once more). Neither player's loss moves the other:
    :func:`~pyro_vaes.inference.adversarial.players`, called once for each kind of fakes, whose :math:`\mathcal{L}_D`
    are averaged, so that D always sees half real and half fake. D is no part of p or q: the pair with any other
    objective is the plain VAE of its model and guide, and whatever is asked of it ignores D.

    **Skipping.** s = 0 in a step in which D tells more than ``threshold`` of real and fakes right, else 1. D, Adam's
    moments and its count of steps then stay as they are, to the bit (``skip_rules``, which ``fit`` honours). The
    decision is taken anew in each step, on the batch and by the D of that step, dropout included.

    **Terms.** Those of the bound; ``gan``, lambda times the generator's losses; ``discriminator``, s L_D. **Bound.**
    The plain evidence lower bound. **Seen**: D's ``accuracy``, and ``skipped``, 1 - s.

    **Units.** The source minimises mean((2x - 2 mu)^2) + alpha KL + beta_D L_D, with a mean over the C H W entries of
    images in [-1, 1]. Times C H W / (8 sd^2) that is ours for Normal(mu, sd) in [0, 1]: the weight of the KL is
    alpha C H W / (8 sd^2), lambda is beta_D C H W / (8 sd^2); their ratio is S2's own (.0003 and .01 for faces, so
    that lambda is 33 times beta).

    Args:
        beta: of the KL, one number or one per site: alpha per time step is ``{"z_1": ..., "z_2": ...}``.
        discriminator: D, flat images (n, d) -> logits (n,) or (n, 1).
        weight: lambda >= 0, the setting ``objective.weight``.
        fakes: ``posterior``, ``prior`` or ``both``.
        threshold: of the accuracy above which D skips a step, in [0, 1]; 1 never skips. Setting ``threshold``.
        saturating: minimise log(1 - sigma(D)) instead, the zero-sum game.
        rate: D's learning rate, as a multiple of the others'.

    Raises:
        InputError: for bad settings; for a prior that cannot be drawn, or a mean that is not (B, d).

    Source: Shang, Sohn, Akata & Tian (2017), Eq. 4 and S3, supplement G.4 and H; VAE-GAN: Larsen et al. (2016). Eq. 4
    has fakes of both kinds, S3 those of the prior, the experiment with few labels reconstructions. The sign of L_D in
    S3 is that of D, which the generator would minimise *with* D; Eq. 4 has the right one, and so has the authors' code,
    whose generator's loss does not saturate either, which is the default here. Departs from them: both players step at
    once, from the same parameters; the encoder sees the adversarial loss of the reconstructions, as in Eq. 4 and in
    their code with recurrence, but not in that without.

    >>> from pyro_vaes.nn.discriminator import ImageDiscriminator
    >>> from pyro_vaes.variants import l2_vae
    >>> pair = l2_vae(data_dim=16, latent_dim=2, hidden=(5,))
    >>> pair.objective = VAEGAN(discriminator=ImageDiscriminator((1, 4, 4), (3,), hidden=5, kernels=2))
    >>> loss = pair(torch.rand(6, 16))
    >>> sorted(loss.terms), sorted(loss.seen)
    (['discriminator', 'gan', 'x', 'z'], ['accuracy', 'skipped'])
    """

    weight: Tensor
    threshold: Tensor

    def __init__(
        self,
        beta: float | Mapping[str, float] = 1.0,
        discriminator: nn.Module | None = None,
        weight: float = 1.0,
        fakes: str = "both",
        threshold: float = 0.9,
        saturating: bool = False,
        rate: float = 1.0,
    ):
        if not isinstance(discriminator, nn.Module):
            raise InputError("VAEGAN needs a discriminator: give a module, flat images (n, d) to logits (n,)")
        if not isinstance(fakes, str) or fakes not in FAKES:
            raise unknown("fakes", str(fakes), list(FAKES))
        if number("threshold", threshold) > 1:
            raise InputError(f"threshold is {threshold!r}: it must be at most 1, the accuracy that never skips")
        if not isinstance(saturating, bool):
            raise InputError(f"saturating is {saturating!r}: it must be True or False")
        values = {"weight": number("weight", weight), "threshold": float(threshold)}
        number("rate", rate, open_low=True)
        super().__init__(beta)
        self.meets = True  # in D's accuracy over the batch
        self.fakes, self.saturating, self._rate, self._numbers = fakes, saturating, rate, values
        for name, value in values.items():
            self.register_buffer(name, setting(value), persistent=False)
        self.discriminator = discriminator
        self.rate_factors, self.skip_rules = {"discriminator": rate}, {"discriminator": "skipped"}

    def __repr__(self) -> str:
        given: dict[str, tuple[Any, Any]] = {
            "beta": (self._given, 1.0), "discriminator": (self.discriminator, None),
            "weight": (self._numbers["weight"], 1.0), "fakes": (self.fakes, "both"),
            "threshold": (self._numbers["threshold"], 0.9), "saturating": (self.saturating, False),
            "rate": (self._rate, 1.0),
        }  # fmt: skip
        changed = {name: value for name, (value, default) in given.items() if value != default}
        said = (f"{name}={f'{v:.12g}' if isinstance(v, float) else repr(v)}" for name, v in changed.items())
        return f"VAEGAN({', '.join(said)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q, p = traces(model, guide, x, y, size, 1)
        plain = self.at(q, p, x, size)
        posterior = recorded(p, "mu", "mean")
        images = [posterior if kind == "posterior" else _of_the_prior(model, x, y, size) for kind in FAKES[self.fakes]]
        games = [players(self.discriminator, x, _like(fake, x), saturating=self.saturating) for fake in images]
        accuracy = average(torch.stack([game.accuracy for game in games]).mean())
        # Above by more than rounding, which engines do differently; the accuracy goes in steps far larger than that.
        skipped = (accuracy > self.threshold.to(accuracy.dtype) + 1e-6).to(accuracy.dtype)
        terms = plain.terms | {
            "gan": self.weight.to(x.dtype) * torch.stack([game.generator for game in games]).sum(),
            "discriminator": (1 - skipped) * torch.stack([game.discriminator for game in games]).mean(),
        }
        seen = {"accuracy": accuracy, "skipped": skipped}
        return Loss(torch.stack(list(terms.values())).sum(), terms, plain.bound, seen)


def _of_the_prior(model, x: Tensor, y: Tensor | None, size: int | None) -> Tensor:
    """The model's means at fresh draws of its latent sites, as many as there are data."""
    try:
        return recorded(trace_of(model, x, y, size, 1), "mu", "mean")
    except NotImplementedError:
        raise InputError("the prior cannot be drawn: fakes must be 'posterior'") from None


def _like(fake: Tensor, x: Tensor) -> Tensor:
    if fake.shape != x.shape:
        raise InputError(f"the model's mean has shape {tuple(fake.shape)}, the images {tuple(x.shape)}")
    return fake

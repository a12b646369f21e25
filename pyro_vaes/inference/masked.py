"""Training with missing entries: those that data have, and those that are hidden from the guide on purpose."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError, called, number, said
from pyro_vaes.inference.classifier_gan import ClassifierGAN
from pyro_vaes.inference.densities import family
from pyro_vaes.inference.objective import Loss, Objective, setting
from pyro_vaes.inference.vae_gan import VAEGAN


class Masked(nn.Module):
    r"""Wrap an objective: entries of every datum are hidden, others at every step, and only the rest is explained.

    .. math:: \mathcal{L}_m(x) = \mathbb{E}_m \mathbb{E}_{z \sim q(z \mid \tilde x)}
              \log \frac{p(z) \prod_{j: m_j = 1} p(x_j \mid z)}{q(z \mid \tilde x)}, \qquad
              \tilde x_j = x_j \text{ if } m_j = 1, \text{ else the fill}

    For a mask this is the objective's own bound, on the log-density of the observed entries alone: around
    :class:`~pyro_vaes.inference.importance.ImportanceWeighted` it is MIWAE's. Two uses. NaN in x is missing at every
    step, so that data with holes can be trained on (``share=0`` hides nothing else). And a guide that has seen holes in
    training makes better guesses by itself; ``impute`` by weights or chains corrects any guide, and gains little from
    it. The decoder learns from fewer entries, which costs it: where data are whole, train the pair first, and then the
    guide alone, with the model's parameters
    frozen (``pair.model.requires_grad_(False)``).

    The guide is shown the fill, not the mask: its input keeps the data's shape. Sites with a value for every entry (the
    weights w of ``t_vae``, the outliers s of ``ic_vae``) leave hidden entries out too. The bound that is shown is that
    of the observed entries, under masks drawn as in training.

    Args:
        objective: any objective of the library that explains x by its density.
        share: in [0, 1), the probability with which an entry is hidden, the setting ``objective.share``; or a function
            of a batch (B, d) that gives what stays, (B, d) bool.
        fill: what hidden entries look like, a number or (d,), in the units of x and inside of the likelihood's support.

    Raises:
        InputError: for a bad share or fill; for an objective that judges whole data (``vae_gan``, ``ae_classifier``) or
            has stages; and, when it runs, for an exact site that all entries of a datum share (``datum_t_vae``).

    Source: Nazabal, Olmos, Ghahramani & Valera (2020), Eq. 3, with missing entries set to zero for the guide; Mattei &
    Frellsen (2019), Eq. 4, for the importance-weighted bound. Departs from them: entries that are there are hidden as
    well, where asked for.

    >>> from pyro_vaes.inference.objective import ELBO
    >>> from pyro_vaes.variants import l2_vae
    >>> pair = l2_vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> pair.objective = Masked(ELBO(), 0.3)
    >>> bool(pair(torch.tensor([[0.5, torch.nan, 0.25, 1.0]])).total.isfinite())
    True
    """

    share: Tensor
    missing_fill: Tensor

    def __init__(
        self,
        objective: Objective,
        share: float | Callable[[Tensor], Tensor] = 0.5,
        fill: float | Tensor = 0.0,
    ):
        if not callable(objective):
            raise InputError(f"objective is {said(objective)}: it must be callable, such as ELBO()")
        if isinstance(objective, VAEGAN | ClassifierGAN) or hasattr(objective, "stages"):
            raise InputError(f"{objective!r} judges whole data, or has stages: entries cannot be hidden from it")
        if not callable(share) and not number("share", share) < 1:
            raise InputError(f"share is {share}: it must be at least 0 and below 1")
        filler = fill.detach().clone() if isinstance(fill, Tensor) else torch.tensor(number("fill", fill, low=-1e30))
        if filler.dim() > 1 or not filler.isfinite().all():
            raise InputError(f"fill is {tuple(filler.shape)}: it must be a finite number, or one for every entry")
        super().__init__()
        self.objective, self.sampler = objective, share if callable(share) else None
        self.given = getattr(share, "__qualname__", None) or repr(share)
        self.register_buffer("share", setting(0.0 if callable(share) else share), persistent=False)
        self.register_buffer("missing_fill", filler, persistent=False)
        if hasattr(objective, "betas"):
            self.betas = objective.betas

    def __repr__(self) -> str:
        return f"Masked({self.objective!r}, {self.given})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        stays = torch.rand_like(x) >= self.share.to(x.dtype) if self.sampler is None else self._sampled(x)
        if self.missing_fill.dim() and len(self.missing_fill) != x.shape[-1]:
            raise InputError(f"fill has {len(self.missing_fill)} entries, data have {x.shape[-1]}")
        seen = stays & ~x.isnan()
        shown, exact = self.filled(x, seen), self._exact()
        return self.objective(_Holed(model, seen, exact), _Holed(guide, seen, exact), shown, y, size=size)

    def filled(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """What the guide is shown of data, (B, d): the fill where they are missing."""
        return torch.where(~x.isnan() if seen is None else seen, x, self.missing_fill.to(x.dtype))

    def _sampled(self, x: Tensor) -> Tensor:
        """What the user's function says stays, or a refusal."""
        stays = called("share", self.sampler, x)
        if not isinstance(stays, Tensor) or stays.dtype != torch.bool or stays.shape not in (x.shape, x.shape[-1:]):
            raise InputError(f"share gives {said(stays)}: it must give a bool tensor {tuple(x.shape)}, True what stays")
        return stays

    def _exact(self) -> tuple[str, ...]:
        objective: Any = self.objective
        while not hasattr(objective, "exact") and hasattr(objective, "objective"):
            objective = objective.objective
        return tuple(getattr(objective, "exact", ()))


class _Holed(nn.Module):
    """A program whose sites count at observed entries only, where they have a value for every entry."""

    def __init__(self, program: nn.Module, seen: Tensor, exact: tuple[str, ...]):
        super().__init__()
        self.program, self.seen, self.exact = program, seen, exact

    def forward(self, x=None, y=None, *, size=None):
        with _Holes(self.seen, self.exact):
            return self.program(x, y, size=size)


class _Holes(Messenger):
    """Mask the densities of sites, entry by entry."""

    def __init__(self, seen: Tensor, exact: tuple[str, ...]):
        super().__init__()
        self.seen, self.exact, self.entries = seen, exact, seen.shape[-1]

    def _pyro_sample(self, msg):
        if hasattr(msg["fn"], "subsample_size") or (msg["infer"] or {}).get("_deterministic"):
            return
        fn = msg["fn"]
        width = tuple(fn.event_shape)
        if isinstance(fn, Delta) and width == (self.entries,):
            # A point's own density is that of its entries in equal parts; a code's has none.
            share = self.seen.to(fn.v.dtype).mean(-1)
            msg["fn"] = Delta(fn.v, fn.log_density * share, event_dim=1)
        elif width in ((self.entries,), (self.entries, 0)) and self._by_entry(msg):
            msg["fn"] = fn.base_dist.mask(self.seen).to_event(1)
        elif msg["name"] in (*self.exact, "x") or type(family(msg)).__name__ == "Unit":
            raise InputError(f"site {msg['name']!r} has no density entry by entry, so that none can be hidden")

    def _by_entry(self, msg: Any) -> bool:
        if not isinstance(msg["fn"], Independent) or msg["fn"].reinterpreted_batch_ndims != 1:
            return False
        kinds = isinstance(family(msg), Jeffreys) or type(family(msg)).__name__ == "Unit"
        return kinds or msg["name"] in (*self.exact, "x")

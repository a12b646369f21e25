"""Denoising: the guide sees a corrupted datum, the model explains the clean one."""

from collections.abc import Callable

from torch import Tensor, nn

from pyro_vaes.data.augment import DYNAMIC, augmentation
from pyro_vaes.errors import InputError
from pyro_vaes.inference.objective import Loss, Objective


class Denoised(nn.Module):
    r"""Wrap an objective: its guide is given a corrupted datum, drawn anew at every step.

    .. math:: \mathcal{L}_{\mathrm{d}}(x) = \mathbb{E}_{\tilde x \sim p(\tilde x \mid x)}
              \mathbb{E}_{z \sim q(z \mid \tilde x)} \log \frac{p(x, z)}{q(z \mid \tilde x)}

    p and q are the pair's own: p says nothing of corruption, and whatever is asked of the trained pair (a cleaned
    datum, a likelihood) is asked with the datum as it is. The bound that is shown conditions q on the corrupted datum,
    as training does, and bounds log p(x) all the same; ``bound(pair, x)`` with ``pair.objective = ELBO()`` is that of a
    guide that sees x.

    Args:
        objective: any objective of the library, an importance-weighted one too: all particles see the same corruption.
        corruption: ``salt_and_pepper:0.05``, ``impulse:0.1``, or a function of a batch (B, d) that keeps its shape.

    Raises:
        InputError: for an unknown corruption, or ``dynamic``, which leaves binary data as they are.

    Source: Im, Ahn, Memisevic & Bengio (2017), Eq. 8; Sumba, Rahman & Madhu (2019), 4.2.5, which found a fraction of
    0.05 to be best and more than 0.2 to hurt.

    >>> import torch
    >>> from pyro_vaes.inference.objective import ELBO
    >>> from pyro_vaes.variants import vae
    >>> pair = vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> pair.objective = Denoised(ELBO(), "salt_and_pepper:0.1")
    >>> sorted(pair(torch.ones(3, 4)).terms)
    ['x', 'z']
    """

    def __init__(self, objective: Objective, corruption: str | Callable[[Tensor], Tensor]):
        if not callable(objective):
            raise InputError(f"objective is {objective!r}: it must be callable, such as ELBO()")
        if corruption is None or corruption in DYNAMIC:
            raise InputError(
                f"corruption is {corruption}: it must be salt_and_pepper:FRACTION, impulse:FRACTION or a function"
            )
        super().__init__()
        self.objective, self.corruption = objective, augmentation(corruption)
        # In words that are the same in another process, where the run may be resumed.
        self.given = getattr(corruption, "__qualname__", None) or repr(corruption)

    def __repr__(self) -> str:
        return f"Denoised({self.objective!r}, {self.given})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        assert self.corruption is not None
        return self.objective(model, _Given(guide, self.corruption(x)), x, y, size=size)


class _Given(nn.Module):
    """A guide that looks at something else than the datum."""

    def __init__(self, guide: nn.Module, seen: Tensor):
        super().__init__()
        self.guide, self.seen = guide, seen

    def forward(self, x=None, y=None, *, size=None):
        return self.guide(self.seen, y, size=size)

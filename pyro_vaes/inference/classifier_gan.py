"""A discriminator that classifies too: few labels, many data, and reconstructions as fakes."""

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number
from pyro_vaes.inference.adversarial import players
from pyro_vaes.inference.objective import Loss, Objective, setting
from pyro_vaes.meeting import everyone


class ClassifierGAN(nn.Module):
    r"""Train a pair and, against its reconstructions, a network D with two heads, which learns classes from few labels.

    .. math:: \mathcal{L} = \mathcal{L}_{\mathrm{pair}}(x) + w\, \mathcal{L}_G(\hat x) + \mathcal{L}_D(x, \hat x)
              - \lambda\, \frac{\sum_{i \in K} \log D_c(y_i \mid x_i)}{\max(1, |K|)},
              \qquad \hat x = \mathbb{E}[x \mid z], \; z \sim q(z \mid x)

    where K are the rows of the batch that have a label. Telling data from reconstructions teaches the trunk, which both
    heads share, from data without a label. The class is no part of p or q: they are trained as without labels, and only
    by the first two terms; D is a constant to them, and they to D
    (:func:`~pyro_vaes.inference.adversarial.players`).

    **Labels.** The cross-entropy is the mean over the *labelled rows of the batch*, and zero in a batch that has none;
    so it does not depend on the share of data that have a label, as long as nearly every batch holds one. Where labels
    are rarer than that, repeat labelled rows, as ``reproduce semi-supervised`` does; a row may be in the data with its
    label and without. After training, :func:`~pyro_vaes.inference.classify.classify` gives :math:`D_c(y \mid x)`.

    **Terms.** Those of the pair's own objective, ``generator``, ``discriminator`` and ``classifier``. The value of the
    total means nothing by itself: look at the terms, and at the accuracy of real against reconstructed (``seen``). The
    bound that is shown is the pair's.

    Args:
        objective: of the pair, such as ``ELBO()``. Where it runs the model more than once, the first run's mean is
            the reconstruction.
        network: D, (n, d) -> logits of "real" (n,) and of the class (n, c), such as
            :class:`~pyro_vaes.nn.two_heads.TwoHeads`.
        weight: w >= 0, the setting ``objective.weight``.
        classifier_weight: lambda >= 0, the setting ``objective.classifier_weight``.
        rate: learning rate of D, as a multiple of the others'.

    Raises:
        InputError: for bad settings, a network that is no module or has other heads, or labels for other classes.

    Source: Shang, Sohn, Akata & Tian (2017), 4.5 and H, who put a VAE into the place of the generator of Denton, Gross
    & Fergus (2016); their weight of L_G is 1e-3 beside a squared error averaged over pixels in [-1, 1], which for
    C H W pixels in [0, 1] and p(x | z) of variance s^2 is w = 1e-3 C H W / (8 s^2). As they do: no patch is removed
    from the data, and all fakes are reconstructions. Departs from them: one step for both players, from the same
    parameters. Where they are silent: lambda is 1, and D steps however often it is right (their rule of 90 % is for
    other data).

    >>> from pyro_vaes.variants import vae_classifier
    >>> pair = vae_classifier(data_dim=16, latent_dim=2, hidden=(3,), filters=(4,))
    >>> sorted(pair(torch.rand(3, 16)).terms)
    ['classifier', 'discriminator', 'generator', 'x', 'z']
    """

    weight: Tensor
    classifier_weight: Tensor

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        weight: float = 1.0,
        classifier_weight: float = 1.0,
        rate: float = 1.0,
    ):
        if not callable(objective):
            raise InputError(f"objective is {objective!r}: it must be callable, such as ELBO()")
        if not isinstance(network, nn.Module):
            raise InputError(f"network is a {type(network).__name__}: it must be a module with two heads")
        self._given = number("weight", weight), number("classifier_weight", classifier_weight)
        number("rate", rate, open_low=True)
        super().__init__()
        self.meets = True  # in the number of labels of a batch
        self.objective, self.network, self.rate_factors = objective, network, {"network": rate}
        self.register_buffer("weight", setting(weight), persistent=False)
        self.register_buffer("classifier_weight", setting(classifier_weight), persistent=False)

    def __repr__(self) -> str:
        values = {
            "weight": (self._given[0], 1.0), "classifier_weight": (self._given[1], 1.0),
            "rate": (self.rate_factors["network"], 1.0),
        }  # fmt: skip
        changed = [f", {name}={value!r}" for name, (value, default) in values.items() if value != default]
        return f"ClassifierGAN({self.objective!r}, {self.network!r}{''.join(changed)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        with _Reconstruction() as seen:
            loss = self.objective(model, guide, x, y, size=size)
        # Particles are more fakes.
        found = players(self.network, real=x, fake=seen.mean.reshape(-1, x.shape[-1]))
        terms = {
            **loss.terms,
            "generator": self.weight.to(x.dtype) * found.generator,
            "discriminator": found.discriminator,
            "classifier": self.classifier_weight.to(x.dtype) * cross_entropy(found.more, y),
        }
        accuracy = {"accuracy": found.accuracy}
        return Loss(torch.stack(list(terms.values())).sum(), terms, loss.bound, {**loss.seen, **accuracy})

    def probabilities(self, x: Tensor) -> Tensor:
        """D_c(y | x), (N, d) -> (N, c)."""
        return self.network(x)[1].softmax(-1)


def cross_entropy(logits: Tensor | None, y: Tensor | None) -> Tensor:
    """The mean of -log softmax at the label over the rows that have one; 0 where none has.

    Args:
        logits: (B, c). y: (B, c), one-hot, or a row of zeros where there is no label; None if no row has one.

    >>> cross_entropy(torch.zeros(3, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    tensor(0.6931)
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise InputError("the network has one head: it must give the logits of the class beside that of real")
    y = torch.zeros_like(logits) if y is None else y
    if y.shape != logits.shape:
        raise InputError(f"the network knows {logits.shape[-1]} classes, but the labels are of {y.shape[-1]}")
    labelled = everyone(y.sum()[None])
    return -(y * logits.log_softmax(-1)).sum() / (labelled.sum().clamp(min=1) / len(labelled))


class _Reconstruction(Messenger):
    """Look at the mean that the model gives x, in its first run."""

    mean: Tensor

    def _pyro_post_sample(self, msg):
        if msg["name"] == "x" and not hasattr(self, "mean"):
            self.mean = msg["fn"].mean

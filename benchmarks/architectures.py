"""The networks that are measured, each as a pair of ours and as plain torch by hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.infer import RenyiELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.objective import Objective
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder

DATA_DIM = 784

Networks = tuple[nn.Module, nn.Module]  # encoder: x -> (loc, scale); decoder: z -> logits


def iwae(particles: int) -> Objective:
    """The importance-weighted bound with k particles."""
    return pv.Stock(RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1))


@dataclass(frozen=True)
class Architecture:
    """One network, Bernoulli likelihood, and how it is trained.

    Attributes:
        title: in words. batch: rows per step. latent: entries of the code. particles: k of the IWAE bound; 1 is the
            ELBO with its KL term in closed form. networks: makes the encoder and the decoder anew.
    """

    title: str
    batch: int
    latent: int
    networks: Callable[[], Networks]
    particles: int = 1

    def pair(self, seed: int = 0) -> pv.Pair:
        """The network as a model, a guide and an objective."""
        encoder, decoder = self._seeded(seed)
        model = LatentBernoulli(StandardPrior(self.latent), decoder)
        objective = pv.ELBO() if self.particles == 1 else iwae(self.particles)
        return pv.Pair(model, AmortisedNormal(encoder), objective, name=self.title)

    def hand(self, seed: int = 0) -> "Hand":
        """The same network, with the same parameters, in plain torch."""
        return Hand(*self._seeded(seed), self.particles)

    def _seeded(self, seed: int) -> Networks:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.networks()


class Hand(nn.Module):
    """What one writes without Pyro: x (B, d) -> the loss in nats per datum."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, particles: int):
        super().__init__()
        self.encoder, self.decoder, self.particles = encoder, decoder, particles

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encoder(x)
        return self.elbo(x, loc, scale) if self.particles == 1 else self.iwae(x, loc, scale)

    def elbo(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Cross entropy + KL in closed form."""
        logits = self.decoder(loc + scale * torch.randn_like(loc))
        cross_entropy = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (loc * loc + scale * scale - 1).sum() - scale.log().sum()
        return (cross_entropy + kl) / len(x)

    def iwae(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """-log of the mean of k importance weights p(x, z) / q(z | x)."""
        noise = torch.randn_like(loc.expand(self.particles, *loc.shape))
        z = loc + scale * noise
        logits = self.decoder(z)
        log_p = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_weight = log_p + (0.5 * (noise * noise - z * z) + scale.log()).sum(-1)
        return (math.log(self.particles) - log_weight.logsumexp(0)).mean()


def mlp_networks(hidden: tuple[int, ...], latent: int, activation: type[nn.Module]) -> Networks:
    """Fully connected, the decoder the encoder's mirror image."""
    encoder = GaussianEncoder(DATA_DIM, hidden, latent, activation)
    return encoder, Decoder(latent, hidden, DATA_DIM, output=nn.Identity, activation=activation)


def conv_networks(latent: int = 20) -> Networks:
    """Two convolutions of stride 2, then 128 units; the decoder is the mirror image. Data are flat outside."""
    encoder = nn.Sequential(
        nn.Unflatten(-1, (1, 28, 28)),
        nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 49, 128), nn.ReLU(),
        GaussianEncoder(128, (), latent),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent, 128), nn.ReLU(),
        nn.Linear(128, 64 * 49), nn.ReLU(), nn.Unflatten(-1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Flatten(),
    )  # fmt: skip
    return encoder, decoder


def iwae_architecture(particles: int = 50) -> Architecture:
    """(c) with any number of particles."""
    title = f"IWAE 784-200-200-50, k = {particles}"
    return Architecture(title, 20, 50, lambda: mlp_networks((200, 200), 50, nn.Tanh), particles)


ARCHITECTURES: dict[str, Architecture] = {
    "a": Architecture("784-400-20", 128, 20, lambda: mlp_networks((400,), 20, nn.ReLU)),
    "b": Architecture("784-1000-500-250-30", 100, 30, lambda: mlp_networks((1000, 500, 250), 30, nn.ReLU)),
    "c": iwae_architecture(),
    "d": Architecture("conv 1-32-64 + 128, z 20", 128, 20, conv_networks),
}


def agree(rows: int = 8, seed: int = 0) -> dict[str, float]:
    """Compare the hand-written loss and each of its gradients with the pair's, at the same seed, in float64.

    Returns:
        the largest relative difference for each architecture; rounding alone.
    """
    x = (torch.rand(rows, DATA_DIM, generator=torch.Generator().manual_seed(seed)) < 0.3).double()
    worst = {}
    for name, architecture in ARCHITECTURES.items():
        pair, hand = architecture.pair().double(), architecture.hand().double()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            ours = pair(x).total
            torch.manual_seed(seed)
            theirs = hand(x)
        values = [ours.detach(), *torch.autograd.grad(ours, [*networks(pair).parameters()])]
        expected = [theirs.detach(), *torch.autograd.grad(theirs, [*hand.parameters()])]
        both = zip(values, expected, strict=True)
        worst[name] = max(((u - v).norm() / v.norm()).item() for u, v in both)
    return worst


def networks(pair: pv.Pair) -> nn.ModuleList:
    """The encoder and decoder of a pair, in the order of :class:`Hand`."""
    return nn.ModuleList([pair.guide.encoder, pair.model.decoder])

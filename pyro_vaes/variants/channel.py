"""Codes made of channels: each for itself, in blocks, and blocks that hear of each other (Shang et al. 2017)."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from pyro_vaes.errors import InputError, number, unknown, whole
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.blocks import AmortisedBlocks
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.blocks import LatentBlocks
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.likelihoods import BernoulliPixels, NormalPixels
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.conv import Norm, image_shape
from pyro_vaes.nn.image import ImageDecoder, ImageEncoder, ImageHead, ImageTrunk, Shape, filters_of, grid_of
from pyro_vaes.nn.mlp import check_sizes
from pyro_vaes.nn.recurrent import BlockLinear, Blockwise, ChannelLSTM, Offset
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS

RECURRENCES = ("both", "inference", "generation")
MEANS, PRESETS = ("conv", "dense"), ("paper", "repo")


def conv_vae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    sd: float | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)), or N(mu(z), sd^2) | q: N(mu_z(x), sigma_z(x)^2) | ELBO | S2 3, G.3;
    Shang, Sohn, Akata & Tian 2017.

    The baseline of its family: a convolutional trunk down to a small grid, fully connected to the code and back.
    ``hidden``: filters per halving; by default 32, 64, 128, 128, ... until the longer side has at most 4 pixels.
    ``shape``: (height, width), or (channels, height, width), any sizes; None is a square. ``latent_dim``: by default 64
    for every cell of that grid, 1024 for 28 x 28. ``sd``: None for binary data, else the standard deviation of
    pixels in [0, 1] around a mean in [0, 1]; the paper's weight alpha of the KL beside a mean square on [-1, 1] is
    ``beta`` = alpha channels height width / (8 sd^2). Departs from the paper: one trunk for all sizes, its MNIST's
    (G.1 and G.2 do not reach 4 x 4 from 64 pixels, nor 28 from 4).

    >>> conv_vae(data_dim=64, hidden=(8,)).model(size=5).shape
    torch.Size([5, 64])
    """
    plan = _plan(data_dim, latent_dim, hidden, shape, sd, any_width=True)
    encoder = ImageEncoder(plan.image, plan.trunk(), plan.dense(), plan.dense())
    lift = nn.Sequential(nn.Linear(plan.width, math.prod(plan.grid)), nn.Unflatten(-1, plan.grid))
    return _one_code(plan, encoder, lift, sd, beta, "conv_vae")


def cvae_conv(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    sd: float | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: that of ``conv_vae`` | q: its, the code a grid of channels, nothing fully connected | ELBO | S2 3, G.3 (cVAE).

    A code of c channels on the trunk's grid, ``latent_dim`` = c height width (c = 64 by default), channel by channel.
    Codes of data are correlated from cell to cell, draws from N(0, I) are not, and nothing on the way back mixes all
    cells at once: such draws have parts that do not belong together.
    Arguments: see ``conv_vae``.

    >>> cvae_conv(data_dim=64, hidden=(8,)).model(size=5).shape
    torch.Size([5, 64])
    """
    plan = _plan(data_dim, latent_dim, hidden, shape, sd)
    c, (channels, *cells) = plan.channels(), plan.grid
    encoder = ImageEncoder(plan.image, plan.trunk(), plan.conv(), plan.conv())
    lift = nn.Sequential(nn.Unflatten(-1, (c, *cells)), nn.Conv2d(c, channels, 3, 1, 1))
    return _one_code(plan, encoder, lift, sd, beta, "cvae_conv")


def bcvae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    blocks: int = 8,
    mean: str = "conv",
    sd: float | None = None,
    beta: float | Sequence[float] = 1.0,
) -> Pair:
    """p: z_1 ... z_T ~ N(0, I), u_t = A_t z_t + b_t, x ~ Bernoulli(logits(u)), or N(mu(u), sd^2) |
    q: N(mu_t(x), sigma_t(x)^2), sigma_t from block t of the features | ELBO | S2 3, G.3.

    T blocks of channels, each with layers of its own on the way to its variance and from its code; the mean has
    neither blocks nor layers but ``mean``, a convolution (``conv``) or a full connection (``dense``), and an offset
    mu_0 less. ``blocks``: T, 64 for CelebA and 8 for MNIST in the paper. ``beta``: one weight of the KL, or one for
    each block. Other arguments: see ``conv_vae``.

    >>> pair = bcvae(data_dim=64, latent_dim=64, hidden=(8,), blocks=2, beta=[1.5, 0.5])
    >>> pair.model(size=5).shape, pair.objective
    (torch.Size([5, 64]), ELBO(beta={'z_1': 1.5, 'z_2': 0.5}))
    """
    _known("mean", mean, MEANS)
    plan = _plan(data_dim, latent_dim, hidden, shape, sd, blocks)
    return _blocks(plan, plan.linear(False), plan.linear(True), mean, "paper", sd, _weights(beta, blocks), "bcvae")


def crvae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    blocks: int = 8,
    recurrence: str = "both",
    mean: str = "conv",
    units: int | None = None,
    preset: str = "paper",
    particles: int = 1,
    sd: float | None = None,
    beta: float | Sequence[float] = 1.0,
) -> Pair:
    """p: z_1 ... z_T ~ N(0, I), u = LSTM(z_1 ... z_T), x ~ Bernoulli(logits(u)), or N(mu(u), sd^2) |
    q: N(mu_t(x), sigma_t(x)^2), sigma from an LSTM over blocks of the features | ELBO | S2 3, G.3; Shang et al. 2017.

    ``recurrence``: where the LSTMs are, ``both``, ``inference`` or ``generation``; the other path is that of
    ``bcvae``. Block t of u hears of z_1 ... z_t only, sigma_t of the features' blocks 1 ... t; the mean has no
    recurrence. ``mean``: ``dense`` is the paper's for MNIST. ``units`` of the LSTMs: 256 by default.
    ``particles``: above 1 the objective is ImportanceWeighted(K), whose beta is 1.

    ``preset``: ``paper`` has one layer, and u as large as the features (4096), mu_0 added to it. ``repo`` is the
    authors' code: two layers, by default of as many units as a block of features has entries (512), u as large as z,
    then mu_0, a convolution and a batch norm, and for the LSTMs a learning rate that is 1 / T of the others'; for MNIST
    it has ``mean="dense"``, too. (It also
    clips gradients of the LSTMs at 5, entry by entry, in a loss averaged over pixels: not done here.)

    Other arguments: see ``bcvae``, ``conv_vae``.

    >>> crvae(data_dim=64, latent_dim=64, hidden=(8,), blocks=2).traces()[1].nodes["u"]["value"].shape
    torch.Size([2, 2, 128])
    """
    for argument, value, known in (("recurrence", recurrence, RECURRENCES), ("preset", preset, PRESETS)):
        _known(argument, value, known)
    _known("mean", mean, MEANS)
    plan = _plan(data_dim, latent_dim, hidden, shape, sd, blocks)
    if whole("particles", particles) > 1 and not (isinstance(beta, int | float) and beta == 1):
        raise InputError(f"beta is {beta!r}: with {particles} particles the bound cannot be weighed by site")
    objective = ImportanceWeighted(particles) if particles > 1 else _weights(beta, blocks)
    inference, generation = (
        plan.lstm(back, units, preset) if recurrence in ("both", where) else plan.linear(back, preset)
        for back, where in ((False, "inference"), (True, "generation"))
    )
    return _blocks(plan, inference, generation, mean, preset, sd, objective, "crvae")


class _Plan(NamedTuple):
    """The sizes of a family, and the layers that follow from them."""

    image: Shape
    filters: tuple[int, ...]
    width: int
    blocks: int

    @property
    def grid(self) -> Shape:
        return grid_of(self.filters, self.image)

    def channels(self) -> int:
        """How many channels the code has."""
        return self.width // math.prod(self.grid[1:])

    def trunk(self) -> ImageTrunk:
        return ImageTrunk(self.image, self.filters)

    def dense(self, bias: bool = True) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.grid), self.width, bias=bias))

    def conv(self, bias: bool = True) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(self.grid[0], self.channels(), 3, 1, 1, bias=bias), nn.Flatten())

    def sizes(self, back: bool, preset: str) -> tuple[int, int]:
        """Entries of a block that come in and go out: features to code, or code to u."""
        features, code = math.prod(self.grid) // self.blocks, self.width // self.blocks
        return (code, code if preset == "repo" else features) if back else (features, code)

    def linear(self, back: bool, preset: str = "paper") -> BlockLinear:
        return BlockLinear(self.blocks, *self.sizes(back, preset))

    def lstm(self, back: bool, units: int | None, preset: str) -> ChannelLSTM:
        inputs, outputs = self.sizes(back, preset)
        repo = preset == "repo"
        default = math.prod(self.grid) // self.blocks if repo else 256
        hidden = default if units is None else whole("units", units, high=10**5)
        return ChannelLSTM(inputs, hidden, outputs, 2 if repo else 1, 1 / self.blocks if repo else 1.0)


def _plan(
    data_dim: int,
    latent_dim: int | None,
    hidden: Sequence[int] | None,
    shape: Sequence[int] | None,
    sd: float | None,
    blocks: int = 1,
    any_width: bool = False,
) -> _Plan:
    """Check all sizes, before any network is made."""
    if sd is not None:
        pixel_sd(sd)
    check_sizes(data_dim, 1 if latent_dim is None else latent_dim, () if hidden is None else hidden)
    image = image_shape(shape, data_dim)
    filters = filters_of(hidden, image)
    features, *cells = grid_of(filters, image)
    width = 64 * math.prod(cells) if latent_dim is None else latent_dim
    if width % (whole("blocks", blocks) * math.prod(cells)) and not any_width:
        raise InputError(
            f"latent_dim is {width}: it must be a multiple of {blocks * math.prod(cells)}, whole channels of "
            f"{cells[0]} x {cells[1]} cells" + (f" in {blocks} blocks" if blocks > 1 else "")
        )
    if features % blocks:
        raise InputError(f"blocks is {blocks}: it must divide the {features} channels of the features")
    return _Plan(image, filters, width, blocks)


def _known(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise unknown(name, str(value), list(known))


def _weights(beta: float | Sequence[float], blocks: int) -> ELBO:
    """One weight of the KL for all blocks, or one for each."""
    if isinstance(beta, Mapping):
        raise InputError(f"beta is {beta!r}: it must be one number, or a list with one for each block")
    if isinstance(beta, str) or not isinstance(beta, Sequence):
        return ELBO(beta)
    if len(beta) != blocks:
        raise InputError(f"beta has {len(beta)} entries for {blocks} blocks: one number, or one for each")
    return ELBO({f"z_{t}": weight for t, weight in enumerate(beta, 1)})


def pixel_sd(sd: object) -> float:
    """Give back the standard deviation of pixels in [0, 1], or refuse it.

    >>> pixel_sd(1e200)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: sd is 1e+200: it must be at most 1e6
    """
    if number("sd", sd, 1e-6) > 1e6:
        raise InputError(f"sd is {sd!r}: it must be at most 1e6")
    return float(sd)  # type: ignore[arg-type]


def _spread(sd: float | None) -> FixedScale | None:
    """The scale of real pixels; None for binary ones."""
    return None if sd is None else FixedScale(sd)


def _one_code(plan: _Plan, encoder: nn.Module, lift: nn.Module, sd: float | None, beta: float, name: str) -> Pair:
    scale, head = _spread(sd), ImageHead(plan.image, plan.filters)
    guide, prior = AmortisedNormal(encoder), StandardPrior(plan.width)
    if scale is None:
        return Pair(LatentBernoulli(prior, ImageDecoder(lift, head)), guide, ELBO(beta), name=name)
    model = LatentGaussian(prior, ImageDecoder(lift, head, nn.Sigmoid), scale)
    return Pair(model, guide, ELBO(beta), range=PIXELS, name=name)


def _blocks(
    plan: _Plan,
    inference: nn.Module,
    generation: nn.Module,
    mean: str,
    preset: str,
    sd: float | None,
    objective: ELBO | ImportanceWeighted,
    name: str,
) -> Pair:
    """T blocks, given what turns features into their scales, and their codes into u."""
    # The offset is the layer's bias.
    layer = plan.conv(bias=False) if mean == "conv" else plan.dense(bias=False)
    loc = nn.Sequential(layer, nn.Unflatten(-1, (plan.channels(), *plan.grid[1:])))
    loc.extend([Offset((plan.channels(), *plan.grid[1:]), sign=-1), nn.Flatten()])
    encoder = ImageEncoder(plan.image, plan.trunk(), loc, Blockwise(plan.blocks, inference))
    grid = (plan.channels() if preset == "repo" else plan.grid[0], *plan.grid[1:])
    lift = nn.Sequential(nn.Unflatten(-1, grid), Offset(grid))
    if preset == "repo":
        lift.extend([nn.Conv2d(grid[0], plan.grid[0], 3, 1, 1, bias=False), Norm(plan.grid[0])])
    scale, head = _spread(sd), ImageHead(plan.image, plan.filters)
    likelihood = (
        BernoulliPixels(ImageDecoder(lift, head))
        if scale is None
        else NormalPixels(ImageDecoder(lift, head, nn.Sigmoid), scale)
    )
    model = LatentBlocks(StandardPrior(plan.width // plan.blocks), plan.blocks, generation, likelihood)
    limits = None if sd is None else PIXELS
    return Pair(model, AmortisedBlocks(encoder, plan.blocks), objective, range=limits, name=name)

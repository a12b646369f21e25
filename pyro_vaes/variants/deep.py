"""The deep variants: codes of codes, decoders that see the code everywhere, convolutions, and one too deep."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, whole
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.hierarchy import BottomUp
from pyro_vaes.guides.ladder import Ladder
from pyro_vaes.guides.nearest import NearestKnot
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.hierarchy import LatentHierarchy
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.conv import ConvDecoder, ConvEncoder, image_shape
from pyro_vaes.nn.curve import Curve
from pyro_vaes.nn.ladder import LadderEncoder
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, check_sizes
from pyro_vaes.nn.scales import LearnedScale
from pyro_vaes.nn.skip import SkipDecoder
from pyro_vaes.pair import Pair


def iwae_2(
    data_dim: int,
    latent_dim: int = 50,
    hidden: Sequence[int] = (200, 200),
    middle: int = 100,
    middle_hidden: Sequence[int] = (100, 100),
    particles: int = 50,
    alpha: float = 0.0,
    estimator: str = "iwae",
) -> Pair:
    """p: z_2 ~ N(0, I), z_1 ~ N(mu(z_2), sigma(z_2)^2), x ~ Bernoulli(logits(z_1)) |
    q: N(z_1; x), then N(z_2; z_1) | ImportanceWeighted(K) | Burda, Grosse & Salakhutdinov 2016; S4 4.2.4.

    Their network of two stochastic layers, tanh throughout: x to ``hidden`` to ``middle`` codes z_1 to
    ``middle_hidden`` to ``latent_dim`` codes z_2, and back. S4 names h_1 = 200, h_2 = 100 and N_z: read here as
    ``hidden=(200,), middle=100, middle_hidden=(100,)``, with N_z the top layer. Data are binary.

    >>> iwae_2(data_dim=4, particles=5).objective
    ImportanceWeighted(particles=5)
    """
    check_sizes(data_dim, latent_dim, hidden)
    check_sizes(whole("middle", middle, high=10**6), latent_dim, middle_hidden, "middle_hidden")
    down = GaussianEncoder(latent_dim, list(reversed(middle_hidden)), middle, nn.Tanh)
    decoder = Decoder(middle, hidden, data_dim, output=nn.Identity, activation=nn.Tanh)
    first = GaussianEncoder(data_dim, hidden, middle, nn.Tanh)
    second = GaussianEncoder(middle, middle_hidden, latent_dim, nn.Tanh)
    model = LatentHierarchy(StandardPrior(latent_dim), [down], decoder)
    return Pair(model, BottomUp([first, second]), ImportanceWeighted(particles, alpha, estimator), name="iwae_2")


def ladder_vae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256, 128),
    latent_dims: Sequence[int] | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: z_L ~ N(0, I), z_l ~ N(mu(z_{l+1}), sigma(z_{l+1})^2), x ~ Bernoulli(logits(z_1)) |
    q: z_L ~ N(mu_L(x), sigma_L(x)^2), z_l ~ p(z_l) N(z_l; mu_l(x), sigma_l(x)^2), normalised | ELBO |
    Sonderby et al. 2016.

    One stochastic layer per width in ``hidden``. ``latent_dims``: the codes of all layers from x inwards, which then
    replace ``latent_dim``; by default each layer has twice the codes of the one above, (64, 32, 16). ``beta`` weighs
    all codes; the paper's warm-up is the schedule ``{"beta": Linear(0, 1, steps)}`` of :func:`~pyro_vaes.fit`. Departs
    from the paper: one layer of ``hidden`` units per step up or down instead of two, leaky ReLU also nearest to the
    code, no batch norm, and standard deviations, not variances, that are a softplus. Data are binary.

    >>> ladder_vae(data_dim=4, latent_dim=2, hidden=(8, 6)).traces()[0].nodes["z_1"]["value"].shape
    torch.Size([2, 4])
    """
    check_sizes(data_dim, latent_dim, hidden)
    if not hidden:
        raise InputError("hidden is empty: a ladder has one layer per width, and at least one")
    codes = [latent_dim * 2**i for i in reversed(range(len(hidden)))] if latent_dims is None else latent_dims
    check_sizes(data_dim, latent_dim, codes, "latent_dims")
    if len(codes) != len(hidden):
        raise InputError(f"latent_dims has {len(codes)} entries, hidden {len(hidden)}: one of each per layer")
    layers = zip(codes[1:], hidden[1:], codes[:-1], strict=True)
    down = [GaussianEncoder(above, (width,), below, nn.LeakyReLU) for above, width, below in layers]
    decoder = Decoder(codes[0], hidden[:1], data_dim, output=nn.Identity, activation=nn.LeakyReLU)
    model = LatentHierarchy(StandardPrior(codes[-1]), down, decoder)
    return Pair(model, Ladder(LadderEncoder(data_dim, hidden, codes), down), ELBO(beta), name="ladder_vae")


def skip_vae(data_dim: int, latent_dim: int = 20, hidden: Sequence[int] = (200, 200), beta: float = 1.0) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)), z entering every layer | q: N(mu_z(x), sigma_z(x)^2) | ELBO |
    Dieng, Kim, Rush & Blei 2019; S3 V.

    Skip connections from the code to every layer of the decoder keep the likelihood from forgetting it. Departs from
    the paper, whose images have convolutional trunks: both networks are fully connected, with tanh. Data are binary.

    >>> len(skip_vae(data_dim=4).model.decoder.skip)
    2
    """
    check_sizes(data_dim, latent_dim, hidden)
    decoder = SkipDecoder(latent_dim, hidden, data_dim, output=nn.Identity, activation=nn.Tanh)
    guide = AmortisedNormal(GaussianEncoder(data_dim, hidden, latent_dim, nn.Tanh))
    return Pair(LatentBernoulli(StandardPrior(latent_dim), decoder), guide, ELBO(beta), name="skip_vae")


def cnn_vae(
    data_dim: int,
    latent_dim: int = 20,
    hidden: Sequence[int] = (32, 64),
    shape: Sequence[int] | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, I), x ~ Bernoulli(logits(z)), deconvolutions | q: N(mu_z(x), sigma_z(x)^2), convolutions | ELBO |
    S4 4.2.2.

    ``hidden``: filters per layer, from x inwards. ``shape``: (height, width), or (channels, height, width), of the flat
    data, any sizes; None is a square. Two convolutions with leaky ReLU, two deconvolutions with ReLU, batch norm
    between, logits where S4 has a sigmoid. S4 gives the filters in a figure only: ours are 3 x 3 with stride 2, 32 and
    64 of them, and no fully connected layer but the one to and from the code. In training, a batch's statistics are
    taken over its particles too. Data are binary.

    >>> cnn_vae(data_dim=6, shape=(2, 3)).model(size=5).shape
    torch.Size([5, 6])
    """
    check_sizes(data_dim, latent_dim, hidden)
    if not hidden:
        raise InputError("hidden is empty: it must hold the filters of at least one convolution")
    image = image_shape(shape, data_dim)
    model = LatentBernoulli(StandardPrior(latent_dim), ConvDecoder(latent_dim, hidden, image))
    return Pair(model, AmortisedNormal(ConvEncoder(image, hidden, latent_dim)), ELBO(beta), name="cnn_vae")


def memoriser(
    data_dim: int,
    latent_dim: int = 1,
    hidden: Sequence[int] = (8, 8),
    points: Tensor | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: z ~ N(0, 1), x ~ N(mu(z), gamma I), mu a curve through N points, gamma learned |
    q: N(t_i, s_i^2), i the point nearest to x | ELBO | S3 V; Dai, Wang, Aston, Hua & Wipf 2018.

    To teach and to diagnose, not to use. The bound punishes codes that are not needed, but not depth: with *one* code
    and a decoder complex enough, it has an optimum that has memorised the training data, and grows with
    -(d / 2) log gamma without limit while log N nats name the datum. ``points``: the training data (N, d), one for each
    point of the curve; None starts from N uniform ones, to be learned, where N is the product of ``hidden``, about as
    many pieces as a ReLU network of these widths can fold a line into. Departs from S3: the curve
    (:class:`~pyro_vaes.nn.curve.Curve`) is written down, not found by training a network, and sqrt(gamma) stays above
    0.001. Data are real.

    >>> memoriser(data_dim=4, points=torch.rand(9, 4)).model.decoder.values.shape
    torch.Size([9, 4])
    """
    check_sizes(data_dim, latent_dim, hidden)
    if latent_dim != 1:
        raise InputError(f"latent_dim is {latent_dim}: the memoriser has one code, which is its point")
    if points is None:
        points = torch.rand(whole("the product of hidden", math.prod(hidden), low=2, high=10**6), data_dim)
    if not isinstance(points, Tensor) or not points.is_floating_point():
        what = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"points are {what}: they must be a tensor of floats")
    if not points.isfinite().all():
        raise InputError("points are not finite everywhere: they must be")
    if points.dim() != 2 or points.shape[1] != data_dim or len(points) < 2:
        raise InputError(f"points have shape {tuple(points.shape)}: it must be (N, {data_dim}), N at least 2")
    decoder, count = Curve(points.to(torch.get_default_dtype())), len(points)
    # A quarter of a cell's rest or so, where the code is densest.
    spread = LearnedScale(count, start=0.25 / count, minimum=0.025 / count)
    model = LatentGaussian(StandardPrior(1), decoder, LearnedScale(1, start=0.3))
    return Pair(model, NearestKnot(decoder, spread), ELBO(beta), name="memoriser")

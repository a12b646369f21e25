"""Images to features on a small grid and back, as a channel-recurrent VAE has them. Plain torch: no Pyro here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.errors import InputError
from pyro_vaes.nn.conv import Norm, halved

Shape = tuple[int, int, int]
SLOPE = 0.1


def filters_of(hidden: Sequence[int] | None, shape: Shape) -> tuple[int, ...]:
    """Give the filters of each halving: by default as many as bring the longer side to 4, from 32 to 128 of them.

    >>> filters_of(None, (1, 28, 28)), filters_of(None, (3, 128, 128)), filters_of([6, 5], (1, 8, 8))
    ((32, 64, 128), (32, 64, 128, 128, 128), (6, 5))
    """
    if hidden is not None:
        if not hidden:
            raise InputError("hidden is empty: it must hold the filters of at least one halving")
        return tuple(hidden)
    times = max(1, math.ceil(math.log2(max(shape[1:]) / 4)))
    return tuple(32 * 2 ** min(i, 2) for i in range(times))


def grid_of(filters: Sequence[int], shape: Shape) -> Shape:
    """Give channels, height and width of the features of an :class:`ImageTrunk`.

    >>> grid_of((32, 64, 128), (1, 28, 28)), grid_of((4, 4, 4), (1, 28, 20))
    ((256, 4, 4), (8, 4, 3))
    """
    height, width = halved(*shape[1:], len(filters))[-1]
    return 2 * filters[-1], height, width


class CReLU(nn.Module):
    """Keep what is above zero and what is below it, as channels of their own: (N, C, ...) -> (N, 2 C, ...).

    >>> CReLU()(torch.tensor([[3.0, -2.0]]))
    tensor([[3., 0., 0., 2.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], 1).relu()


class ImageTrunk(nn.Sequential):
    """Map images to features: (N, channels, H, W) -> (N, 2 f, h, w), f the last of ``filters``.

    Each halving is a convolution of stride 2 with f filters, batch norm and CReLU, then one of stride 1 with 2 f
    filters, batch norm and leaky ReLU; kernels are 3 x 3, the first 5 x 5.

    Args:
        shape: (channels, H, W), any height and width. filters: one number per halving.

    Source: Shang et al. (2017), G.1, whose trunk of MNIST this is with 32, 64, 128.

    >>> ImageTrunk((1, 28, 20), (4, 6))(torch.zeros(2, 1, 28, 20)).shape
    torch.Size([2, 12, 7, 5])
    """

    def __init__(self, shape: Shape, filters: Sequence[int]):
        layers: list[nn.Module] = []
        channels, kernel = shape[0], 5
        for count in filters:
            # The batch norm takes the mean away, so a bias in front of it would have no gradient.
            layers += [nn.Conv2d(channels, count, kernel, 2, kernel // 2, bias=False), Norm(count), CReLU()]
            layers += [nn.Conv2d(2 * count, 2 * count, 3, 1, 1, bias=False), Norm(2 * count), nn.LeakyReLU(SLOPE)]
            channels, kernel = 2 * count, 3
        super().__init__(*layers)


class Crop(nn.Module):
    """Keep the first rows and columns of what a doubling has made too large.

    >>> Crop(3, 2)(torch.zeros(1, 1, 4, 4)).shape
    torch.Size([1, 1, 3, 2])
    """

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]


class ImageHead(nn.Sequential):
    """Map features to images, the trunk backwards: (N, 2 f, h, w) -> (N, channels, H, W).

    Each doubling is a deconvolution of stride 2, 4 x 4, and a convolution, 3 x 3, each with batch norm and leaky ReLU;
    at the end a convolution, 1 x 1. A side that was odd loses the last row of its doubling.

    Args:
        shape, filters: the *trunk's*.

    Source: Shang et al. (2017), G.2, MNIST, which lists four doublings of 4 pixels to 28: these are three. Nothing
    stands between the last convolution and the image, where G.2 has a batch norm and a leaky ReLU before the sigmoid.

    >>> ImageHead((1, 28, 20), (4, 6))(torch.zeros(2, 12, 7, 5)).shape
    torch.Size([2, 1, 28, 20])
    """

    def __init__(self, shape: Shape, filters: Sequence[int]):
        layers: list[nn.Module] = []
        sizes, channels = halved(*shape[1:], len(filters)), 2 * filters[-1]
        for (height, width), count in reversed(list(zip(sizes, filters, strict=False))):
            layers += [nn.ConvTranspose2d(channels, 2 * count, 4, 2, 1, bias=False), Crop(height, width)]
            layers += [Norm(2 * count), nn.LeakyReLU(SLOPE)]
            layers += [nn.Conv2d(2 * count, 2 * count, 3, 1, 1, bias=False), Norm(2 * count), nn.LeakyReLU(SLOPE)]
            channels = 2 * count
        super().__init__(*layers, nn.Conv2d(channels, shape[0], 1))


class ImageEncoder(nn.Module):
    """Map a flat image to mean and standard deviation of q(z | x): (..., d) -> two of (..., k).

    Args:
        trunk: images (N, channels, H, W) -> features (N, C, h, w). loc, raw_scale: features -> (N, k).

    >>> heads = [nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, 2)) for _ in range(2)]
    >>> loc, scale = ImageEncoder((1, 8, 8), ImageTrunk((1, 8, 8), (4,)), *heads)(torch.zeros(5, 3, 64))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([5, 3, 2]), True)
    """

    def __init__(self, shape: Shape, trunk: nn.Module, loc: nn.Module, raw_scale: nn.Module):
        super().__init__()
        self.shape, self.trunk, self.loc, self.raw_scale = shape, trunk, loc, raw_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Particles and data become one batch: convolutions know one leading dimension.
        h = self.trunk(x.reshape(-1, *self.shape))
        loc, scale = self.loc(h), softplus(self.raw_scale(h)) + 1e-5
        return loc.reshape(*x.shape[:-1], -1), scale.reshape(*x.shape[:-1], -1)


class ImageDecoder(nn.Module):
    """Map a code to the mean, or the logits, of a flat image: (..., k) -> (..., d).

    Args:
        lift: codes (N, k) -> features (N, C, h, w). head: features -> images. output: the last activation.

    >>> lift = nn.Sequential(nn.Linear(2, 8 * 4 * 4), nn.Unflatten(-1, (8, 4, 4)))
    >>> ImageDecoder(lift, ImageHead((1, 8, 8), (4,)))(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3, 64])
    """

    def __init__(self, lift: nn.Module, head: nn.Module, output: type[nn.Module] = nn.Identity):
        super().__init__()
        self.lift, self.head, self.output = lift, head, output()

    def forward(self, z: Tensor) -> Tensor:
        images = self.head(self.lift(z.reshape(-1, z.shape[-1])))
        return self.output(images).reshape(*z.shape[:-1], -1)

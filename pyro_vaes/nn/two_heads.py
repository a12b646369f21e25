"""A convolutional network with two answers: whether an image is real, and of which class. Plain torch: no Pyro here."""

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vaes.nn.conv import image_of
from pyro_vaes.nn.mlp import check_sizes


class TwoHeads(nn.Module):
    """Map flat images to the logit of "real" and the logits of the class: (..., d) -> (...), (..., c).

    A trunk in the style of VGG, shared by both heads: for each number of filters so many 3 x 3 convolutions, each with
    a norm and a leaky ReLU, and a 2 x 2 max pooling; each head is a linear map of what comes out.

    Args:
        shape: (channels, height, width), any height and width, or (height, width). filters: one number per pooling.
        classes: c. layers: convolutions before each pooling.

    The norm takes mean and variance over all entries of one image, not over the batch: a discriminator sees real and
    made images in batches of their own, and running statistics of both together would be wrong for either at test time.

    Source: Denton, Gross & Fergus (2016), whose discriminator is a VGG with both heads; Wu & He (2018), the norm.

    >>> import torch
    >>> real, classes = TwoHeads((3, 9, 8), (4, 6), 10)(torch.zeros(5, 2, 216))
    >>> real.shape, classes.shape
    (torch.Size([5, 2]), torch.Size([5, 2, 10]))
    """

    def __init__(self, shape: Sequence[int], filters: Sequence[int], classes: int, layers: int = 1):
        super().__init__()
        check_sizes(classes, layers, filters, "filters")
        self.shape = image_of(shape)
        self._given = (self.shape, tuple(filters), classes, layers)
        parts: list[nn.Module] = []
        channels, height, width = self.shape
        for count in filters:
            for _ in range(layers):
                parts += [nn.Conv2d(channels, count, 3, padding=1), nn.GroupNorm(1, count), nn.LeakyReLU(0.1)]
                channels = count
            parts += [nn.MaxPool2d(2, ceil_mode=True)]
            height, width = (height + 1) // 2, (width + 1) // 2
        self.trunk = nn.Sequential(*parts, nn.Flatten())
        self.real = nn.Linear(channels * height * width, 1)
        self.classes = nn.Linear(channels * height * width, classes)

    def __repr__(self) -> str:
        return f"TwoHeads{self._given}"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Particles and data become one batch: convolutions know one leading dimension.
        h = self.trunk(x.reshape(-1, *self.shape)).reshape(*x.shape[:-1], -1)
        return self.real(h)[..., 0], self.classes(h)

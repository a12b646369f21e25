"""Images cut into four: some quadrants are seen, the others are to be predicted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.data.datasets import Dataset, check_dataset
from pyro_vaes.errors import InputError, whole

ORDER = ("bottom left", "top left", "top right", "bottom right")


@dataclass(frozen=True)
class Quadrants:
    """What is missing of every image, and what is seen of it.

    Attributes:
        x: (N, m) the missing pixels, bytes where the images were.
        y: (N, o) the observed pixels, floats in [0, 1].
        missing, observed: (m,) and (o,) their places in the flat image; together every place once.
        shape: of one image.
    """

    x: Tensor
    y: Tensor
    missing: Tensor
    observed: Tensor
    shape: tuple[int, ...]

    def join(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Put completions (..., m) and observed pixels (..., o), by default those of the data, into images (..., d).

        Raises:
            InputError: if there are not as many pixels as are missing or observed.

        >>> parts = quadrants(Dataset("mine", torch.arange(8.0).reshape(1, 8) / 8, (2, 4)), observed=2)
        >>> parts.join(torch.zeros(1, 4))
        tensor([[0.0000, 0.1250, 0.0000, 0.0000, 0.5000, 0.6250, 0.0000, 0.0000]])
        """
        y = self.y if y is None else y
        if x.shape[-1] != len(self.missing) or y.shape[-1] != len(self.observed):
            raise InputError(
                f"{x.shape[-1]} and {y.shape[-1]} pixels: {len(self.missing)} are missing, "
                f"{len(self.observed)} observed"
            )
        # The pixels side by side are the image in another order.
        order = torch.cat([self.missing, self.observed]).argsort().to(x.device)
        rows = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        return torch.cat([x.expand(*rows, -1), y.to(x).expand(*rows, -1)], -1)[..., order]


def quadrants(dataset: Dataset, observed: int = 1) -> Quadrants:
    """Split images into the quadrants that are seen and those that are not.

    Args:
        dataset: images of shape (H, W) or (C, H, W), H and W even.
        observed: how many quadrants are seen: 1 is the bottom left, 2 the left half, 3 all but the bottom right.

    Raises:
        InputError: if ``observed`` is not 1, 2 or 3, or the data are no images with even sides.

    Source: Sohn, Lee & Yan (2015), 5.1, who see one, two or three quadrants; which, is that of Pyro's tutorial on them.

    >>> parts = quadrants(Dataset("mine", torch.arange(8.0).reshape(1, 8) / 8, (2, 4)), observed=1)
    >>> parts.observed.tolist(), parts.missing.tolist()
    ([4, 5], [0, 1, 2, 3, 6, 7])
    """
    check_dataset(dataset)
    whole("observed", observed, high=3)
    shape = dataset.shape
    if len(shape) not in (2, 3) or shape[-2] % 2 or shape[-1] % 2:
        raise InputError(f"{dataset.name}: shape {shape} has no quadrants: images (H, W) with even sides are needed")
    seen = torch.zeros(shape, dtype=torch.bool)
    bottom, right = shape[-2] // 2, shape[-1] // 2
    for name in ORDER[:observed]:
        rows = slice(bottom, None) if "bottom" in name else slice(bottom)
        columns = slice(right, None) if "right" in name else slice(right)
        seen[..., rows, columns] = True
    places, others = seen.flatten().nonzero().flatten(), (~seen).flatten().nonzero().flatten()
    y = dataset.x[:, places]
    return Quadrants(dataset.x[:, others], y.float() / 255 if y.dtype == torch.uint8 else y, others, places, shape)

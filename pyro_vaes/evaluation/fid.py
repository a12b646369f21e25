"""The Frechet inception distance itself, where the user has the weights of the published network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, first_line, whole
from pyro_vaes.evaluation.neighbours import check_rows
from pyro_vaes.inference.guard import as_batch


def fid(
    real: Tensor,
    fake: Tensor,
    shape: Sequence[int],
    weights: str | Path,
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> float:
    r"""Frechet distance of two sets of images in the 2048 features of the published Inception network.

    The network and the distance are torchmetrics' ``FrechetInceptionDistance``, which resizes the images; the weights
    come from a file, and nothing is downloaded. Compare values of as many images only. Without weights,
    :class:`~pyro_vaes.evaluation.generation.Judge` gives a Frechet distance in features of its own, which is no FID.

    Args:
        real: (N, d), values in [0, 1] or bytes; N at least 2, and well above 2048 for a covariance of full rank.
        fake: (M, d), likewise. shape: of one image, (H, W), (1, H, W) or (3, H, W), with product d.
        weights: the file of weights that torchmetrics' ``feature_extractor_weights_path`` takes.
        batch_size: images at a time. device: where the network runs.

    Raises:
        InputError: for bad images, a file that is missing or of something else, or without torchmetrics.

    Source: Heusel et al. (2017). Not run by us with the real weights: tested with a stand-in for the network.
    """
    whole("batch_size", batch_size)
    for name, x in (("real", real), ("fake", fake)):
        check_rows(name, x, low=2)
    # Of all images before any work, so that the last of them is refused in time.
    images = {name: inception_images(x, shape) for name, x in (("real", real), ("fake", fake))}
    metric = _metric(Path(weights)).to(device)
    with torch.no_grad():
        for name, batch in images.items():
            for start in range(0, len(batch), batch_size):
                metric.update(_colour(batch[start : start + batch_size]).to(device), real=name == "real")
        return float(metric.compute())


def inception_images(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Give images as bytes, (n, C, H, W): floats in [0, 1] become the nearest of 0 to 255.

    Args:
        x: (n, d), in [0, 1] or bytes. shape: (H, W), (1, H, W) or (3, H, W).

    Raises:
        InputError: for another shape, or values outside of [0, 1].

    >>> inception_images(torch.tensor([[0.0, 0.5, 1.0, 0.2]]), (2, 2)).tolist()
    [[[[0, 128], [255, 51]]]]
    """
    if not isinstance(shape, Sequence) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(f"shape is {shape!r}: it must be (H, W), (1, H, W) or (3, H, W)")
    size = tuple(shape)
    if len(size) not in (2, 3) or (len(size) == 3 and size[0] not in (1, 3)) or torch.Size(size).numel() != x.shape[1]:
        raise InputError(f"shape {size} is not that of a grey or colour image of {x.shape[1]} entries")
    pixels = as_batch(x)
    if bool(((pixels < 0) | (pixels > 1)).any()):
        low, high = pixels.aminmax()
        raise InputError(f"images lie in [{low:g}, {high:g}]: it must be [0, 1]")
    if x.dtype != torch.uint8:
        x = (255 * x).round().to(torch.uint8)
    return x.reshape(len(x), -1, *size[-2:])


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def _metric(weights: Path) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise InputError(
            f"the FID needs torchmetrics ({error}): pip install 'pyro-vaes[fid]'; "
            "without it, Judge gives a Frechet distance in features of its own"
        ) from None
    if not weights.is_file():
        raise InputError(f"{weights}: there is no such file of Inception weights, and none is downloaded")
    try:
        return FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
    except ImportError as error:
        raise InputError(f"the FID needs what torchmetrics asks for: {first_line(error)}") from None
    except Exception as error:
        raise InputError(f"{weights} does not hold Inception weights: {first_line(error)}") from error

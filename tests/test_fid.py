"""The FID without its network: what it is fed, and what it says where something is missing."""

import sys
from types import ModuleType

import pytest
import torch

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.fid import fid, inception_images
from pyro_vaes.evaluation.generation import frechet_distance


class StandIn:
    """torchmetrics' metric with another network: the mean of each third of the image's rows."""

    def __init__(self, feature, feature_extractor_weights_path):
        assert feature == 2048
        with open(feature_extractor_weights_path) as file:
            if file.read() != "weights":
                raise RuntimeError("PytorchStreamReader failed\nat length")
        self.seen = {True: [], False: []}

    def to(self, device):
        return self

    def update(self, images, real):
        assert images.dtype == torch.uint8 and images.shape[1] == 3 and len(images) <= 16
        self.seen[real].append(images.double())

    def compute(self):
        found = (torch.cat(self.seen[real]).mean((1, 3)) for real in (True, False))
        return torch.tensor(frechet_distance(*found))


@pytest.fixture
def torchmetrics(monkeypatch, tmp_path):
    module = ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = StandIn
    for name in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    path = tmp_path / "inception.pth"
    path.write_text("weights")
    return path


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (3, 2, 2)])
def test_images_reach_the_network_as_bytes_of_three_channels(torchmetrics, shape):
    real, fake = torch.rand(40, 12), torch.rand(33, 12) ** 2
    found = fid(real, fake, shape, torchmetrics, batch_size=16)
    features = [
        (255 * x).round().reshape(len(x), -1, *shape[-2:]).expand(-1, 3, -1, -1).double().mean((1, 3))
        for x in (real, fake)
    ]
    assert found == pytest.approx(frechet_distance(*features), rel=1e-6)
    assert fid((255 * real).round().to(torch.uint8), fake, shape, torchmetrics, batch_size=16) == pytest.approx(found)
    assert fid(real, real, shape, torchmetrics, batch_size=16) == pytest.approx(0, abs=1e-3)


def test_channels_stay_where_they_are():
    x = torch.arange(12, dtype=torch.uint8)[None]
    images = inception_images(x, (3, 2, 2))
    assert images.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]]


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (torch.rand(4, 12), (2, 2, 3), "shape"),
        (torch.rand(4, 12), (3, 3), "shape"),
        (torch.rand(4, 12), (12,), "shape"),
        (torch.rand(4, 12) + 0.5, (3, 4), "must be"),
        (torch.rand(1, 12), (3, 4), "at least 2"),
        (torch.full((4, 12), float("nan")), (3, 4), "NaN"),
    ],
)
def test_bad_images_are_refused(torchmetrics, x, shape, message):
    with pytest.raises(InputError, match=message):
        fid(torch.rand(4, 12), x, shape, torchmetrics)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(InputError, match=r"needs torchmetrics .*pip install 'pyro-vaes\[fid\]'"):
        fid(torch.rand(4, 12), torch.rand(4, 12), (3, 4), tmp_path / "inception.pth")


def test_weights_that_are_missing_or_of_something_else_are_refused(torchmetrics, monkeypatch, tmp_path):
    x = torch.rand(4, 12)
    with pytest.raises(InputError, match="no such file of Inception weights, and none is downloaded"):
        fid(x, x, (3, 4), tmp_path / "nothing.pth")
    torchmetrics.write_text("else")
    with pytest.raises(InputError, match=r"does not hold Inception weights: RuntimeError: PytorchStreamReader failed$"):
        fid(x, x, (3, 4), torchmetrics)

    def without_fidelity(**_):
        raise ModuleNotFoundError("requires that `Torch-fidelity` is installed")

    monkeypatch.setattr(sys.modules["torchmetrics.image.fid"], "FrechetInceptionDistance", without_fidelity)
    with pytest.raises(InputError, match="Torch-fidelity"):
        fid(x, x, (3, 4), torchmetrics)

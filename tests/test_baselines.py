import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.baselines import BASELINES, mean_image, median, pca, rpca_clean
from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.rpca import rpca


@pytest.fixture(scope="module")
def digits():
    g = torch.Generator().manual_seed(0)
    clean = torch.as_tensor(load_digits().data / 16, dtype=torch.float32)
    mask = torch.rand(clean.shape, generator=g) < 0.4
    return clean, torch.where(mask, torch.rand(clean.shape, generator=g), clean)


def test_names():
    assert list(BASELINES) == ["mean", "median", "pca", "rpca"]


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_signature(name, dtype):
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    cleaned = BASELINES[name](x)
    assert cleaned.shape == x.shape and cleaned.dtype == dtype
    assert cleaned.data_ptr() != x.data_ptr() and cleaned.is_contiguous()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("x", [torch.full((12, 11), torch.nan), torch.ones(3), torch.ones(0, 2), torch.ones(0)])
def test_bad_input(name, x):
    with pytest.raises(InputError):
        BASELINES[name](x)


@pytest.mark.parametrize("components", [0, 4, -1])
def test_pca_refuses_impossible_components(components):
    with pytest.raises(InputError, match="components"):
        pca(torch.rand(5, 3), components=components)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_median_is_the_columns_median(n):
    x = torch.randn(n, 7, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    assert torch.allclose(median(x)[0], x.quantile(0.5, dim=0))
    assert torch.equal(median(x), median(x)[:1].expand_as(x))


def test_each_is_what_it_says():
    x = torch.rand(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(mean_image(x), x.mean(0).expand_as(x))
    model = PCA(3, svd_solver="full").fit(x.numpy())
    assert torch.allclose(pca(x, components=3), torch.as_tensor(model.inverse_transform(model.transform(x.numpy()))))
    assert torch.equal(rpca_clean(x), rpca(x).low_rank)
    assert torch.allclose(pca(x, components=12), x)


def test_digits_with_impulse_noise(digits):
    clean, dirty = digits
    error = {name: mse(clean_up(dirty), clean) for name, clean_up in BASELINES.items()}
    assert error["rpca"] < error["pca"] < error["median"] < error["mean"] < mse(dirty, clean)
    # Bands, not digits: the mask is random.
    assert 0.045 < error["rpca"] < 0.056
    assert 0.055 < error["pca"] < 0.062
    assert 0.088 < error["mean"] < 0.093

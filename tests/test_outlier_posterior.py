"""The posterior of an outlier: closed forms, quadrature, and probabilities that are what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_closed_forms import F64, LinearEncoder, Solution, linear_data, linear_pair
from torch import nn

import pyro_vaes as pv
from pyro_vaes.analysis.outlier_judge import judge_outliers, planted_outliers
from pyro_vaes.analysis.outlier_plots import judged_figure, outlier_figure
from pyro_vaes.analysis.outlier_posterior import Moments, outlier_posterior, quantiles
from pyro_vaes.errors import InputError
from pyro_vaes.guides.cell_posterior import CellPosterior
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.outliers import outlier_probability
from pyro_vaes.models.cell_mixture import CellMixture
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
D, ALPHA, SIGMA, BROAD = 6, 0.8, 0.3, 3.0


def cells():
    """rvae with one code and an affine decoder; the guide is the prior, and weights make it the posterior."""
    decoder = nn.Linear(1, D).double()
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[1.0], [-0.8], [0.6], [1.2], [0.9], [-1.1]]))
        decoder.bias.copy_(torch.linspace(-0.5, 0.5, D))
    parts = (decoder, *(FixedScale(v).double() for v in (SIGMA, ALPHA, BROAD)))
    encoder = LinearEncoder(torch.zeros(1, D, dtype=F64), torch.zeros(D, dtype=F64), torch.ones(1, dtype=F64))
    return Pair(CellMixture(StandardPrior(1).double(), *parts), CellPosterior(encoder, *parts), ELBO(exact=["w"]))


def drawn_cells(n, seed=0):
    """Data of that model, their clean values and their mask."""
    g = torch.Generator().manual_seed(seed)
    decoder = cells().model.decoder
    with torch.no_grad():
        mu = decoder(torch.randn(n, 1, generator=g, dtype=F64))
    clean = mu + SIGMA * torch.randn(n, D, generator=g, dtype=F64)
    mask = torch.rand(n, D, generator=g) > ALPHA
    return torch.where(mask, BROAD * torch.randn(n, D, generator=g, dtype=F64), clean), clean, mask


def by_quadrature(x):
    """P(dirty | x) and the posterior of s on a grid of codes."""
    z = torch.linspace(-6, 6, 4001, dtype=F64)
    with torch.no_grad():
        mu = cells().model.decoder(z[:, None])[:, None]
    normal = torch.distributions.Normal
    clean, dirt = ALPHA * normal(mu, SIGMA).log_prob(x).exp(), (1 - ALPHA) * normal(0.0, BROAD).log_prob(x).exp()
    weights = ((clean + dirt).log().sum(-1) - z[:, None] ** 2 / 2).softmax(0)
    mean = torch.einsum("zb,zbd->bd", weights, x - mu)
    sd = torch.einsum("zb,zbd->bd", weights, (x - mu - mean) ** 2).sqrt()
    return torch.einsum("zb,zbd->bd", weights, dirt / (clean + dirt)), mean, sd


def test_weighted_probabilities_and_moments_are_those_of_quadrature():
    x = drawn_cells(8)[0]
    found = outlier_posterior(cells(), x, draws=20_000)
    dirty, mean, sd = by_quadrature(x)
    ok = found.khat < 0.7
    assert ok.sum() >= 6
    torch.testing.assert_close(found.weighted.outlier[ok], dirty[ok], atol=0.03, rtol=0)
    torch.testing.assert_close(found.weighted.mean[ok], mean[ok], atol=0.03, rtol=0)
    torch.testing.assert_close(found.weighted.sd[ok], sd[ok], atol=0.03, rtol=0.1)
    # Without weights they are those of the guide, which never looks: far from it.
    assert (found.guide.outlier - dirty).abs().mean() > 0.1
    theirs = outlier_probability(cells(), x, 600)
    torch.testing.assert_close(found.guide.outlier, theirs, atol=0.08, rtol=0)


def test_probabilities_of_the_models_own_data_are_calibrated():
    x, clean, mask = drawn_cells(300, seed=1)
    found = outlier_posterior(cells(), x, draws=1000)
    # Where weights cannot be trusted, there is only the guide, which knows nothing.
    keep = found.khat < 0.7
    assert 0.8 < keep.double().mean() < 1
    guide, weighted = (Moments(*(m[keep] for m in part)) for part in (found.guide, found.weighted))
    found = replace(found, guide=guide, weighted=weighted, khat=found.khat[keep], clean=found.clean[keep])
    judged = judge_outliers(found, mask[keep], clean[keep])
    assert judged.error["weighted"] < 0.03 < judged.error["guide"]
    assert judged.skill["weighted"] > 0.4 and judged.auc["weighted"] > 0.9
    assert judged.covered["weighted"] == pytest.approx(0.9, abs=0.05)
    assert judged.finding().verdict == "good"
    assert found.finding().verdict in ("caution", "bad")  # the guide's own spread is the prior's
    assert "AUC" in judged_figure(judged).get_suptitle()


def test_intervals_are_those_of_the_closed_form():
    """Linear-Gaussian: s | x ~ N(x - W m - b, W C W'), by weights from a guide that is too wide."""
    x = linear_data()[:4]
    solution = Solution.of(linear_data(), 2)
    encoder = solution.encoder()
    with torch.no_grad():
        encoder.scale *= 1.4
    found = outlier_posterior(linear_pair(solution, encoder), x, draws=20_000, level=0.8)
    matrix, cov = solution.posterior()
    mean = x - ((x - solution.b) @ matrix.T @ solution.w.T + solution.b)
    sd = (solution.w @ cov @ solution.w.T).diag().sqrt()
    torch.testing.assert_close(found.weighted.mean, mean, atol=float(0.04 * sd.max()), rtol=0)
    torch.testing.assert_close(found.weighted.sd, sd.expand(4, 5), atol=0, rtol=0.04)
    torch.testing.assert_close(found.guide.sd, 1.4 * sd.expand(4, 5), atol=0, rtol=0.04)
    torch.testing.assert_close(found.weighted.low, mean - 1.2816 * sd, atol=float(0.08 * sd.max()), rtol=0)
    torch.testing.assert_close(found.weighted.high, mean + 1.2816 * sd, atol=float(0.08 * sd.max()), rtol=0)
    wide = (sd**2 + solution.sigma**2).sqrt()
    torch.testing.assert_close(
        found.weighted.clean_high, x - mean + 1.2816 * wide, atol=float(0.08 * wide.max()), rtol=0
    )
    assert found.finding().verdict == "caution"


def test_weights_that_cannot_be_trusted_leave_the_guide():
    solution = Solution.of(linear_data(), 2)
    encoder = solution.encoder()
    with torch.no_grad():
        encoder.scale *= 0.2
    found = outlier_posterior(linear_pair(solution, encoder), linear_data()[:4], draws=200)
    assert found.finding().verdict == "not tested"
    assert torch.equal(found.guide.mean[found.khat > 0.7], found.weighted.mean[found.khat > 0.7])


def test_quantiles_are_numpy_s():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(50, 2, 3)), rng.dirichlet(np.ones(50), size=2).T
    found = quantiles(torch.as_tensor(values), torch.as_tensor(weights), (0.05, 0.5))
    for i, share in enumerate((0.05, 0.5)):
        for b in range(2):
            theirs = np.quantile(values[:, b], share, axis=0, weights=weights[:, b], method="inverted_cdf")
            np.testing.assert_allclose(found[i][b].numpy(), theirs)


def test_planted_outliers_of_images_and_their_figure():
    x = 0.5 + 0.1 * torch.rand(12, 16, generator=torch.Generator().manual_seed(0))
    found, judged, dirty, mask = planted_outliers(
        pv.t_vae(16, 2, (5,)), x, spec="salt_and_pepper:0.2", draws=50, batch_size=5
    )
    assert dirty[mask].round().equal(dirty[mask]) and judged.auc["weighted"] > 0.9
    figure = outlier_figure(found, dirty, (4, 4), mask=mask, clean=x, rows=[0, 3])
    assert len(figure.axes) == 12


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (lambda: pv.vae(4, 2, (5,)), "0 or 1"),
        (lambda: pv.autoencoder(4, 2, (5,)), "puts a point mass on the code"),
    ],
)
def test_what_has_no_outliers_is_refused(pair, message):
    with pytest.raises(InputError, match=message):
        outlier_posterior(pair(), torch.ones(3, 4))


def test_a_mask_of_one_kind_is_refused():
    with pytest.raises(InputError, match="makes all or none"):
        planted_outliers(pv.t_vae(4, 2, (5,)), torch.rand(3, 4), spec="impulse:0.0", draws=50)

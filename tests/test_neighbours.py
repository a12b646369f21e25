"""Nearest neighbours of samples: against scikit-learn, closed forms in expectation, and sets that are the same."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.generation import Judge, digest, nearest_distance
from pyro_vaes.evaluation.neighbours import histogram, nearest_distances
from pyro_vaes.evaluation.prdc import PRDC, expected_coverage, prdc, reaches


def normal(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scikit_learn(real, fake, k):
    """The four numbers from balls looked up one by one."""
    near = [NearestNeighbors(n_neighbors=k, algorithm="brute").fit(a) for a in (real, fake)]
    reach, own = (n.kneighbors()[0][:, -1] for n in near)
    distances = np.linalg.norm(np.asarray(fake)[:, None] - np.asarray(real)[None], axis=-1)
    inside = distances <= reach
    return PRDC(
        inside.any(1).mean(), (distances <= own[:, None]).any(0).mean(), inside.sum() / (k * len(fake)),
        inside.any(0).mean(),
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block", [7, 50, 1000])
def test_prdc_is_that_of_scikit_learn(k, block):
    real, fake = normal(83, 4), 0.8 * normal(61, 4, seed=1) + 0.2
    assert prdc(real, fake, k, block=block) == pytest.approx(by_scikit_learn(real, fake, k))
    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(real.numpy())
    np.testing.assert_allclose(reaches(real, k, block), near.kneighbors()[0][:, -1])


def test_identical_sets():
    """Everything is reached; in each ball lie its centre and its k neighbours, and so the density is (k + 1) / k."""
    for dtype in (torch.float32, torch.float64):
        x = normal(300, 20).to(dtype) + 10
        assert prdc(x, x, 5, block=64) == (1, 1, 6 / 5, 1)
        assert prdc(x, x[torch.randperm(300)], 3) == (1, 1, pytest.approx(4 / 3), 1)


def test_disjoint_sets():
    x = normal(100, 3)
    assert prdc(x, x + 1000) == (0, 0, 0, 0)


def test_copies_of_one_datum_are_precise_but_cover_nothing():
    x = normal(200, 3)
    found = prdc(x, x[:1].repeat(50, 1))
    # Copies have no reach but to themselves, and are in the balls of those few whose neighbour that datum is.
    assert found.precision == 1 and found.recall == 1 / 200 and found.coverage < 0.1 and found.density >= 1 / 5


def test_precision_and_recall_change_places_with_the_sets():
    real, fake = normal(90, 2), 2 * normal(70, 2, seed=1)
    one, other = prdc(real, fake), prdc(fake, real)
    assert (one.precision, one.recall) == (other.recall, other.precision)


@pytest.mark.parametrize(("n", "m", "k"), [(200, 200, 5), (300, 100, 3), (200, 200, 1)])
def test_equal_distributions_have_the_density_and_coverage_of_the_formula(n, m, k):
    found = [prdc(normal(n, 3, seed), normal(m, 3, 1000 + seed), k) for seed in range(60)]
    for values, expected in (
        ([one.density for one in found], 1.0), ([one.coverage for one in found], expected_coverage(n, m, k)),
    ):  # fmt: skip
        assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / np.sqrt(60)
    assert expected_coverage(10**7, 10**7, k) == pytest.approx(1 - 2**-k, abs=1e-6)


def test_a_mode_that_is_missing_is_seen_by_recall_and_coverage():
    g = torch.Generator().manual_seed(0)
    modes = torch.tensor([[-10.0, 0.0], [10.0, 0.0]])
    real = modes[torch.arange(400) % 2] + torch.randn(400, 2, generator=g)
    fake = modes[0] + torch.randn(400, 2, generator=g)
    found = prdc(real, fake)
    assert found.precision > 0.9 and found.recall <= 0.5 and found.coverage <= 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [8, 1000])
def test_nearest_distances_are_those_of_scikit_learn(dtype, block):
    x, y = normal(60, 30).to(dtype) + 5, normal(83, 30, seed=1).to(dtype) + 5
    near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(y.numpy())
    tight = {"rtol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(nearest_distances(x, y, block=block), near.kneighbors(x.numpy())[0][:, 0], **tight)
    np.testing.assert_allclose(nearest_distances(y, block=block), near.kneighbors()[0][:, 0], **tight)
    assert nearest_distance(x, y) == pytest.approx(near.kneighbors(x.numpy())[0].mean(), rel=1e-6)


def test_copies_are_at_zero_and_rows_do_not_find_themselves():
    x = torch.rand(50, 40) + 100
    assert not nearest_distances(x[:9], x, block=16).any()
    assert nearest_distances(x, block=16).min() > 0.1
    assert not nearest_distances(torch.cat([x, x]), block=16).any()


def test_bytes_are_pixels():
    x = torch.randint(256, (30, 12), dtype=torch.uint8)
    torch.testing.assert_close(nearest_distances(x), nearest_distances(x.float() / 255))
    torch.testing.assert_close(nearest_distances(x, x.double() / 255), torch.zeros(30, dtype=torch.float64))


def test_histograms_share_their_bins():
    edges, shares = histogram({"data": torch.tensor([1.0, 2.0, 3.0]), "samples": torch.tensor([2.0, 5.0])}, bins=4)
    assert edges == [1, 2, 3, 4, 5]
    assert shares == {"data": [1 / 3, 1 / 3, 1 / 3, 0], "samples": [0, 0.5, 0, 0.5]}
    with pytest.raises(InputError, match="finite"):
        histogram({"data": torch.tensor([float("nan")])})


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.rand(5, 2), torch.rand(9, 2), "real has 5 rows: 5 neighbours"),
        (torch.rand(9, 2), torch.rand(9, 3), "must agree"),
        (torch.rand(9, 2) / 0, torch.rand(9, 2), "NaN or infinite"),
        (torch.rand(9), torch.rand(9, 2), "must be"),
        (torch.ones(9, 2, dtype=torch.long), torch.rand(9, 2), "floating point"),
    ],
)
def test_bad_features_are_refused(real, fake, message):
    with pytest.raises(InputError, match=message):
        prdc(real, fake)
    if "rows" not in message:
        with pytest.raises(InputError, match=message):
            nearest_distances(real, fake)


# --- the judge ---------------------------------------------------------------------------------------------------


def test_a_judge_is_the_same_from_the_same_seed_and_says_so():
    x = torch.rand(120, 4, generator=torch.Generator().manual_seed(0))
    y, shape = (x[:80, 0] > 0.5).long(), (2, 2)
    plain = Judge(x[:80], y, x[80:], shape, hidden=[5])
    same = Judge(x[:80], y, x[80:], shape, hidden=[5], neighbours=5)
    other = Judge(x[:80], y, x[80:], shape, hidden=[5], seed=1)
    assert len(plain.digest) == 64 and plain.digest == same.digest != other.digest
    samples = x[:40] * 0.9
    found = same(samples)
    assert {k: v for k, v in found.items() if k in plain(samples)} == plain(samples)
    assert set(found) - set(plain(samples)) == set(PRDC._fields) == set(same.real) - set(plain.real)
    assert same(x[80:])["density"] == 6 / 5 and 0.5 < same.real["density"] < 1.5
    with pytest.raises(InputError, match="held_out has 40 rows"):
        Judge(x[:80], y, x[80:], shape, neighbours=40)


def test_a_digest_sees_every_weight():
    x = torch.rand(60, 4)
    judge = Judge(x[:40], (x[:40, 0] > 0.5).long(), x[40:], (2, 2), hidden=[3])
    for array in (*judge.classifier.coefs_, *judge.classifier.intercepts_):
        kept = array.flat[-1]
        array.flat[-1] = np.nextafter(kept, 2)
        assert digest(judge.classifier) != judge.digest
        array.flat[-1] = kept
    assert digest(judge.classifier) == judge.digest

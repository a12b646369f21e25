"""Dirt in tables: exact numbers of rows and cells, noise of the right law on the scale of the column."""

import pytest
import torch
from scipy import stats

from pyro_vaes.data.tabular import NOISES, corrupt_cells
from pyro_vaes.errors import InputError

X = torch.randn(400, 13, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 14)
LAWS = {
    "gaussian": stats.norm(0, 5).cdf,
    "laplace": stats.laplace(0, 4).cdf,
    "lognormal": stats.lognorm(0.75).cdf,
    "mixture": lambda e: 0.6 * stats.norm(0.5, 3).cdf(e) + 0.4 * stats.norm(-0.5, 3).cdf(e),
}


def test_every_noise_has_its_law():
    assert set(LAWS) == set(NOISES)


@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("rows", [0.01, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_numbers_of_rows_and_cells_are_exact(noise, rows):
    dirty = corrupt_cells(X, noise, rows)
    counts = dirty.mask.sum(1)
    assert (counts > 0).sum() == round(rows * 400)
    assert set(counts.tolist()) <= {0, 3}  # 20 % of 13
    assert torch.equal(dirty.x[~dirty.mask], X[~dirty.mask])
    assert (dirty.x[dirty.mask] != X[dirty.mask]).all()
    assert dirty.x.dtype == X.dtype


def test_at_least_one_row_and_one_cell():
    assert corrupt_cells(X[:20, :2], "gaussian", 0.01).mask.sum() == 1
    assert corrupt_cells(X, "gaussian", 0.0).mask.sum() == 0


@pytest.mark.parametrize("noise", LAWS)
def test_the_noise_has_its_law_on_the_scale_of_the_column(noise):
    dirty = corrupt_cells(X.double(), noise, 1.0, 1.0, seed=3)
    epsilon = (dirty.x - X.double()) / X.double().std(0)
    for column in (epsilon[:, 0], epsilon[:, -1], epsilon.flatten()):
        assert stats.kstest(column.numpy(), LAWS[noise]).pvalue > 1e-3
    wrong = stats.norm(0, 4.2).cdf
    assert stats.kstest(epsilon.flatten().numpy(), wrong).pvalue < 1e-3


def test_seeded_and_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (corrupt_cells(X, "laplace", 0.2, seed=s) for s in (5, 5, 6))
    assert torch.equal(one.x, two.x) and torch.equal(one.mask, two.mask)
    assert not torch.equal(one.mask, other.mask)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.mask, corrupt_cells(X, "mixture", 0.2, seed=5).mask)


def test_more_rows_are_the_same_rows_and_others():
    few, many = (corrupt_cells(X, "gaussian", share, seed=2) for share in (0.05, 0.5))
    assert many.mask[few.mask].all()
    assert torch.equal(few.x[few.mask], many.x[few.mask])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gausian", 0.1), "did you mean 'gaussian'"), (("gaussian", 1.5), "rows is 1.5"),
        (("gaussian", 0.1, 0.0), "cells is 0.0"), (("gaussian", True), "rows is True"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        corrupt_cells(X, *arguments)


@pytest.mark.parametrize("x", [X[0], X[:1], X.long(), X * float("nan")])
def test_bad_tables_are_refused(x):
    with pytest.raises(InputError, match="finite floating table"):
        corrupt_cells(x, "gaussian", 0.1)

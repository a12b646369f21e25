import math
import subprocess
import sys

import pytest
import torch

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.rpca import RPCA, rpca


def planted(n, d, rank, dirty, seed=0):
    g = torch.Generator().manual_seed(seed)
    low = torch.randn(n, rank, generator=g, dtype=torch.float64) @ torch.randn(
        rank, d, generator=g, dtype=torch.float64
    )
    mask = torch.rand(n, d, generator=g) < dirty
    noise = 10 * (2 * torch.rand(n, d, generator=g, dtype=torch.float64) - 1)
    return low, torch.where(mask, noise, 0.0)


def assert_optimal(x, split: RPCA, lam, tol=1e-4):
    """Y in both subdifferentials and X = L + S: together sufficient for the optimum of a convex problem."""
    y, low, sparse = split.dual, split.low_rank, split.sparse
    assert (x - low - sparse).norm() <= 1.1e-7 * x.norm()
    assert torch.linalg.matrix_norm(y, 2) <= 1 + tol
    assert y.abs().max() <= lam * (1 + tol)
    nuclear = torch.linalg.matrix_norm(low, "nuc")
    value = nuclear + lam * sparse.abs().sum()
    assert abs((y * low).sum() - nuclear) <= tol * value
    assert abs((y * sparse).sum() - lam * sparse.abs().sum()) <= tol * value


@pytest.mark.parametrize(
    ("n", "d", "rank", "dirty"), [(200, 60, 3, 0.1), (60, 200, 3, 0.1), (100, 100, 5, 0.05), (150, 90, 2, 0.15)]
)
def test_recovers_planted_parts(n, d, rank, dirty):
    low, sparse = planted(n, d, rank, dirty)
    split = rpca(low + sparse)
    assert (split.low_rank - low).norm() <= 1e-5 * low.norm()
    assert (split.sparse - sparse).norm() <= 1e-5 * sparse.norm()
    assert split.rank == rank
    assert split.residual <= 1e-7
    assert_optimal(low + sparse, split, 1 / math.sqrt(max(n, d)))


@pytest.mark.parametrize("shape", [(80, 30), (30, 80), (40, 40)])
@pytest.mark.parametrize("lam", [None, 0.05, 0.4])
def test_optimal_where_nothing_is_low_rank_or_sparse(shape, lam):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_optimal(x, rpca(x, lam=lam), lam or 1 / math.sqrt(max(shape)))


def test_no_feasible_neighbour_is_cheaper():
    low, sparse = planted(40, 25, 2, 0.3)
    x, lam = low + sparse, 1 / math.sqrt(40)
    split = rpca(x)

    def cost(low_rank):
        return torch.linalg.matrix_norm(low_rank, "nuc") + lam * (x - low_rank).abs().sum()

    best = cost(split.low_rank)
    g = torch.Generator().manual_seed(2)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(20):
            step = torch.randn(x.shape, generator=g, dtype=x.dtype)
            assert cost(split.low_rank + size * step) >= best * (1 - 1e-6)


def test_zero_data():
    split = rpca(torch.zeros(5, 3))
    assert split.rank == 0 and split.residual == 0 and split.iterations == 0
    assert not split.low_rank.any() and not split.sparse.any()


def test_one_row_and_one_column():
    row = torch.tensor([[3.0, 1.0, 0.0, -2.0]], dtype=torch.float64)
    for x in (row, row.mT):
        split = rpca(x)
        assert split.low_rank.shape == x.shape
        assert_optimal(x, split, 0.5)
    assert rpca(torch.tensor([[2.0]])).residual <= 1e-7


def test_large_lam_leaves_everything_low_rank():
    x = torch.randn(20, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not rpca(x, lam=2.0).sparse.any()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_scales_with_the_data(scale):
    low, sparse = planted(50, 30, 2, 0.1)
    split = rpca(scale * (low + sparse))
    assert (split.low_rank / scale - low).norm() <= 1e-5 * low.norm()


def test_dtype_and_input_are_kept():
    low, sparse = planted(50, 30, 2, 0.1)
    x = (low + sparse).float()
    before = x.clone()
    split = rpca(x)
    assert split.low_rank.dtype == split.sparse.dtype == torch.float32
    assert torch.equal(x, before)
    assert (split.low_rank - low).norm() <= 1e-5 * low.norm()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.full((3, 3), torch.nan), {}, "9 cells"),
        (torch.full((3, 3), torch.inf), {}, "9 cells"),
        (torch.ones(3), {}, r"\(n, d\)"),
        (torch.ones(2, 3, 4), {}, r"\(n, d\)"),
        (torch.ones(0, 3), {}, "empty"),
        (torch.ones(3, 3, dtype=torch.int64), {}, "floating"),
        (torch.ones(3, 3), {"lam": 0.0}, "lam"),
        (torch.ones(3, 3), {"lam": math.nan}, "lam"),
        (torch.ones(3, 3), {"tol": 0.0}, "tol"),
        (torch.ones(3, 3), {"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_input(x, options, message):
    with pytest.raises(InputError, match=message) as error:
        rpca(x, **options)
    assert "\n" not in str(error.value)


def test_says_when_it_has_not_converged():
    low, sparse = planted(50, 30, 2, 0.1)
    with pytest.raises(RuntimeError, match="not converged in 5 iterations"):
        rpca(low + sparse, max_iter=5)


def test_importing_the_room_stays_light():
    code = (
        "import sys, pyro_vaes\n"
        "before = set(sys.modules)\n"
        "import importlib.util, pathlib, torch\n"
        "torch_only = set(sys.modules)\n"
        "from pyro_vaes.evaluation import rpca, baselines, threshold, metrics\n"
        "heavy = {'sklearn', 'scipy', 'matplotlib'} & (set(sys.modules) - torch_only)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""

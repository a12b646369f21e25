import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from pyro_vaes.errors import InputError
from pyro_vaes.inference.proposition1 import h_at, h_bound, posterior, solve, surrogate

EULER = 0.5772156649015329


def case(n=4, d=5, kappa=2, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return 2 * normal(n, d), normal(d, kappa), normal(d), normal(n, d).exp()


def expected_log(mean, var, floor):
    """E log(e^2 + floor^2) of e ~ N(mean, var), by quadrature."""
    sd = math.sqrt(var)

    def integrand(t):
        square = (mean + sd * t) ** 2 + floor**2
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi) * math.log(max(square, 1e-300))

    # The logarithm is singular (or, with a floor, sharp) where the error is zero.
    middle = min(max(-mean / sd, -11.0), 11.0)
    pieces = [quad(integrand, *ends, limit=400, epsabs=1e-9, epsrel=1e-9)[0] for ends in ((-12, middle), (middle, 12))]
    return sum(pieces)


def cost(x, W, b, mu, sigma, floor=0.0):
    """Eq. 8 per datum, exactly."""
    mean, var = x - mu @ W.mT - b, torch.einsum("jk,nkl,jl->nj", W, sigma, W)
    kl = sigma.diagonal(dim1=1, dim2=2).sum(1) - torch.logdet(sigma) + mu.square().sum(1)
    logs = [
        [expected_log(float(m), float(v), floor) for m, v in zip(*row, strict=True)]
        for row in zip(mean, var, strict=True)
    ]
    return kl + torch.tensor(logs, dtype=torch.float64).sum(1)


def test_quadrature_knows_its_closed_form():
    assert expected_log(0.0, 3.0, 1e-9) == pytest.approx(math.log(3) - math.log(2) - EULER, abs=1e-6)
    assert expected_log(1e3, 1e-6, 0.0) == pytest.approx(math.log(1e6), abs=1e-6)


@pytest.mark.parametrize(("d", "kappa"), [(5, 2), (3, 3), (2, 4), (1, 1)])
def test_posterior_is_bayes_rule(d, kappa):
    x, W, b, lam = case(d=d, kappa=kappa)
    mu, sigma = posterior(x, W, b, lam)
    for i in range(len(x)):
        gain = W.mT @ torch.linalg.inv(lam[i].diag() + W @ W.mT)
        assert torch.allclose(mu[i], gain @ (x[i] - b))
        assert torch.allclose(sigma[i], torch.eye(kappa, dtype=W.dtype) - gain @ W)


def test_corrected_equation_31_is_stationary_and_the_printed_one_is_not():
    x, W, b, lam = case()
    mu, sigma = (a.requires_grad_() for a in posterior(x, W, b, lam))
    grads = torch.autograd.grad(surrogate(x, W, b, mu, sigma, lam).sum(), (mu, sigma))
    assert all(float(grad.abs().max()) < 1e-10 for grad in grads)
    eye = torch.eye(2, dtype=W.dtype)
    printed = torch.linalg.inv(torch.einsum("jk,nj,jl->nkl", W, lam, W) + eye).requires_grad_()
    (grad,) = torch.autograd.grad(surrogate(x, W, b, mu.detach(), printed, lam).sum(), printed)
    assert float(grad.abs().amax((1, 2)).min()) > 0.1
    best = surrogate(x, W, b, mu, sigma, lam)
    assert bool((surrogate(x, W, b, mu, printed, lam) > best + 1e-3).all())


@pytest.mark.parametrize(("d", "kappa"), [(5, 2), (3, 3), (2, 4), (1, 1)])
def test_minimum_of_equation_30_is_kappa_plus_h(d, kappa):
    x, W, b, lam = case(d=d, kappa=kappa)
    h = h_at(x, W, b, lam)
    assert torch.allclose(surrogate(x, W, b, *posterior(x, W, b, lam), lam), h + kappa)
    for i in range(len(x)):
        psi, c = lam[i].diag() + W @ W.mT, x[i] - b
        assert torch.allclose(h[i], c @ torch.linalg.solve(psi, c) + torch.logdet(psi))
    assert torch.allclose(h_at(x, W, b, lam, floor=0.3), h + 0.09 * (1 / lam).sum(1))


@pytest.mark.parametrize("floor", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_the_cost_with_the_derived_constant(seed, floor):
    n, d, kappa = 4, 5, 2
    x, W, b, lam = case(n, d, kappa, seed)
    for variances in (lam, h_bound(x, W, b, floor=floor or 1e-2).lam):
        exact = cost(x, W, b, *posterior(x, W, b, variances), floor)
        bound = h_at(x, W, b, variances, floor=floor) + kappa - d
        assert bool((exact <= bound + 1e-6).all())
        assert bool((exact <= h_at(x, W, b, variances) + d * math.log1p(floor**2 / 1e-4)).all())
    if floor:
        # At the optimal variances the only slack left is Jensen's.
        assert bool((bound - exact <= d * (math.log(2) + EULER) + 1e-6).all())


def test_jensens_slack_is_largest_at_zero_mean():
    # x = b: every error has mean zero, and at the fixed point each feature loses exactly log 2 + gamma.
    _, W, b, _ = case()
    x = b[None]
    lam = torch.full((1, 5), 0.7, dtype=torch.float64)
    mu, sigma = posterior(x, W, b, lam)
    lam_best = torch.einsum("jk,nkl,jl->nj", W, sigma, W)
    slack = surrogate(x, W, b, mu, sigma, lam_best) - 5 - cost(x, W, b, mu, sigma)
    assert float(slack) == pytest.approx(5 * (math.log(2) + EULER), abs=1e-5)


def test_tight_as_the_posterior_variance_of_the_errors_vanishes():
    # For W -> t W the errors become x - b, without variance: the slack is 2 sum_j v_j / m_j^2, of order t^2.
    x, W, b, _ = case()
    x = b + x.sign() * (1 + x.abs())
    slack = []
    for t in (0.1, 0.01):
        bound = h_bound(x, t * W, b, floor=1e-6)
        exact = cost(x, t * W, b, *posterior(x, t * W, b, bound.lam))
        slack.append(float((bound.h + 2 - 5 - exact).max()))
    assert 0 < slack[1] < 2e-3
    assert slack[0] / slack[1] == pytest.approx(100, rel=0.2)


def test_without_a_subspace_h_is_the_log_of_the_squares():
    x, W, b, _ = case()
    bound = h_bound(x, 0 * W, b, floor=1e-3)
    square = (x - b).square() + 1e-6
    assert torch.allclose(bound.lam, square)
    assert torch.allclose(bound.h, 5 + square.log().sum(1))


def brute_force(x, W, b, floor, starts):
    g = torch.Generator().manual_seed(0)

    def value(log_lam):
        u = torch.tensor(log_lam).requires_grad_()
        h = h_at(x[None], W, b, u.exp()[None], floor=floor)
        h.backward()
        return h.item(), u.grad.numpy()

    low = 2 * math.log(floor)
    first = [(low + (4 - low) * torch.rand(len(x), generator=g, dtype=torch.float64)).numpy() for _ in range(starts)]
    bounds = [(low - 1, 10.0)] * len(x)
    return min(minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds).fun for start in first)


@pytest.mark.parametrize(("d", "kappa", "seed"), [(1, 1, 0), (3, 1, 0), (4, 1, 1), (5, 2, 0), (4, 4, 0)])
def test_h_equals_brute_force(d, kappa, seed):
    x, W, b, _ = case(3, d, kappa, seed)
    bound = h_bound(x, W, b, floor=0.1)
    assert torch.allclose(bound.h, h_at(x, W, b, bound.lam, floor=0.1))
    brute = torch.tensor([brute_force(row, W, b, 0.1, 12) for row in x], dtype=torch.float64)
    assert bool((bound.h >= brute - 1e-4).all())
    assert torch.allclose(bound.h, brute, atol=1e-4)


def test_h_is_stationary_and_falls_with_every_iteration():
    x, W, b, _ = case(6, 7, 3)
    bound = h_bound(x, W, b, floor=0.05, iterations=5000, tol=0)
    mu, sigma = posterior(x, W, b, bound.lam)
    errors = (x - mu @ W.mT - b).square() + torch.einsum("jk,nkl,jl->nj", W, sigma, W)
    assert torch.allclose(bound.lam, errors + 0.05**2, rtol=1e-4)
    path = torch.stack([h_bound(x, W, b, floor=0.05, iterations=k, tol=0).h for k in range(1, 40)])
    assert bool((path.diff(dim=0) <= 1e-10).all())
    assert bool((bound.h >= 2 * 7 * math.log(0.05)).all())


@pytest.mark.slow
def test_unbounded_exactly_where_fewer_than_d_degrees_of_freedom_suffice():
    d, kappa = 6, 2
    x, W, b, _ = case(3, d, kappa)
    z = torch.tensor([[1.0, -0.5], [0.3, 2.0], [-1.0, 1.5]], dtype=torch.float64)
    inlier, generic = z @ W.mT + b, x
    outlier = inlier.clone()
    outlier[:, 1] += 6
    fall = {}
    for name, data in (("inlier", inlier), ("outlier", outlier), ("generic", generic)):
        h = [h_bound(data, W, b, floor=f, iterations=10000).h for f in (1e-2, 1e-3, 1e-4)]
        fall[name] = (h[1] - h[2]) / math.log(10)
    # log|Psi| loses 2 log(1 / floor) for each dimension that neither z (kappa) nor an outlier explains.
    assert fall["inlier"].tolist() == pytest.approx([2 * (d - kappa)] * 3, abs=0.1)
    assert fall["outlier"].tolist() == pytest.approx([2 * (d - kappa - 1)] * 3, abs=0.1)
    # One unexplained dimension would already give 2; what is left is the descent's slow end.
    assert fall["generic"].abs().max() < 0.5


def planted(seed, n=200, d=20, rank=3, dirty=0.2):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W = normal(d, rank)
    clean = normal(n, rank) @ W.mT + normal(d)
    mask = torch.rand(n, d, generator=g) < dirty
    return clean, W, torch.where(mask, 20 * torch.rand(n, d, generator=g, dtype=torch.float64) - 10, clean)


def pca(x, rank):
    c = x - x.mean(0)
    vh = torch.linalg.svd(c, full_matrices=False)[2][:rank]
    return x.mean(0) + c @ vh.mT @ vh, vh.mT


def angle(W, V):
    """Sine of the largest principal angle between two subspaces."""
    q, r = torch.linalg.qr(W).Q, torch.linalg.qr(V).Q
    return float(torch.linalg.matrix_norm(q - r @ (r.mT @ q), 2))


@pytest.mark.parametrize("seed", range(3))
def test_solver_recovers_a_subspace_that_pca_loses(seed):
    clean, W, x = planted(seed)
    found = solve(x, 3)
    low, directions = pca(x, 3)
    error, rival = (found.low_rank - clean).square().mean(1), (low - clean).square().mean(1)
    # A row with nearly half its cells dirty may settle on the wrong ones; the typical row is exact.
    assert error.mean() < 0.05 * rival.mean()
    assert error.median() < 1e-6 * rival.median()
    assert angle(W, found.W) < 1e-2 < 0.3 < angle(W, directions)
    assert ((found.sparse.abs() > 0.1) == ((x - clean).abs() > 0.1)).double().mean() > 0.98
    assert torch.allclose(found.low_rank + found.sparse, x)
    assert torch.allclose(found.z @ found.W.mT + found.b, found.low_rank)


@pytest.mark.parametrize("options", [{}, {"offset": False}, {"rank": 20}, {"floor": 0.1}, {"rank": 1, "tol": 0.0}])
def test_objective_never_rises(options):
    _, _, x = planted(0, n=60)
    found = solve(x, **({"rank": 3, "iterations": 100} | options))
    history = torch.tensor(found.history, dtype=torch.float64)
    assert bool((history.diff() <= 1e-9 * history[:-1].abs()).all())
    assert history[-1] < history[0]
    value = h_at(x, found.W, found.b, found.lam, floor=options.get("floor", 1e-3)).sum()
    assert float(value) == pytest.approx(found.history[-1])
    assert bool(found.b.any()) == options.get("offset", True)


def test_superfluous_columns_shrink():
    clean, _, x = planted(0)
    found = solve(x, 6)
    assert (found.low_rank - clean).square().mean() < 0.05 * (pca(x, 3)[0] - clean).square().mean()


def test_solver_edge_cases():
    zero = torch.zeros(4, 3, dtype=torch.float64)
    assert float(solve(zero, 2).low_rank.abs().max()) < 1e-6
    one = solve(torch.tensor([[1.0, 2.0, 3.0]]), 1)
    assert one.low_rank.dtype == torch.float32 and bool(one.low_rank.isfinite().all())
    _, _, x = planted(0, n=30)
    assert torch.equal(solve(x, 2, iterations=5).W, solve(x, 2, iterations=5).W)
    assert not torch.equal(solve(x, 2, iterations=5).W, solve(x, 2, iterations=5, seed=1).W)


def test_a_floor_beyond_float64_is_named():
    x, W, b, lam = case()
    with pytest.raises(RuntimeError, match="too small"):
        posterior(x, 1e3 * W[:, [0, 0]], b, 1e-14 * lam)


X, W, B, LAM = case()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior(X[0], W, B, LAM), "x has shape"),
        (lambda: posterior(X[:0], W, B, LAM), "not empty"),
        (lambda: posterior(X * math.nan, W, B, LAM), "x has 20"),
        (lambda: posterior(X, W * math.nan, B, LAM), "W has 10"),
        (lambda: posterior(X, W, B * math.nan, LAM), "b has 5"),
        (lambda: posterior(X, W[1:], B, LAM), "W has shape"),
        (lambda: posterior(X, W[:, :0], B, LAM), "W has shape"),
        (lambda: posterior(X, W, B[1:], LAM), "b has shape"),
        (lambda: posterior(X, W, B, LAM[1:]), "lam has shape"),
        (lambda: posterior(X, W, B, 0 * LAM), "20 values that are not positive"),
        (lambda: posterior(X.long(), W, B, LAM), "floating"),
        (lambda: surrogate(X, W, B, X, X, LAM), "mu has shape"),
        (lambda: h_at(X, W, B, LAM, floor=-1.0), "floor"),
        (lambda: h_bound(X, W, B, floor=0.0), "floor"),
        (lambda: h_bound(X, W, B, floor=math.nan), "floor"),
        (lambda: h_bound(X, W, B, iterations=0), "iterations"),
        (lambda: h_bound(X, W, B, tol=-1.0), "tol"),
        (lambda: solve(X, 0), "rank"),
        (lambda: solve(X, 6), "rank"),
        (lambda: solve(X[0], 1), "x has shape"),
        (lambda: solve(X * math.inf, 1), "infinite"),
        (lambda: solve(X, 1, floor=-1.0), "floor"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_history_is_of_the_objective_at_the_floor_and_no_longer_than_was_asked():
    """The last entry is sum_i h_i of the returned variances, written out with the covariance itself."""
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = solve(x, 2, floor=0.25, iterations=5, tol=0.0)
    assert len(found.history) == 6
    covariance = found.W @ found.W.mT + torch.diag_embed(found.lam)
    c = x - found.b
    square = (c[:, None] @ torch.linalg.inv(covariance) @ c[..., None])[:, 0, 0]
    by_hand = square + torch.logdet(covariance) + 0.25**2 * (1 / found.lam).sum(1)
    assert found.history[-1] == pytest.approx(by_hand.sum().item(), rel=1e-9)
    assert len(solve(x, 2, floor=0.25, tol=1e3).history) == 2


def test_what_is_solved_has_no_history_of_its_data():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert not any(part.requires_grad for part in solve(x, 2, iterations=2) if isinstance(part, torch.Tensor))

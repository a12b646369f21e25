"""Models whose evidence is known: probabilistic PCA, Student's t, and small integrals on a grid."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from sklearn.decomposition import PCA
from torch import Tensor, nn

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.outlier import OutlierDelta
from pyro_vaes.guides.precision import ConjugatePrecision
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.stock import Stock
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.index_conditional import IndexConditional
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.sparse_outlier import SparseOutlier
from pyro_vaes.models.student_t import PrecisionMixture
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.nn.scales import FixedScale, LearnedScale
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
LOG_2PI = math.log(2 * math.pi)
F64 = torch.float64


def fixed(value: float) -> FixedScale:
    """A scale with all the digits of a double."""
    scale = FixedScale(value).double()
    scale.value.fill_(value)
    return scale


# --- probabilistic PCA (Tipping & Bishop 1999) ------------------------------------------------------------------


class LinearEncoder(nn.Module):
    """q(z | x) = N(A (x - b), diag s^2): A, b and s given."""

    def __init__(self, matrix: Tensor, centre: Tensor, scale: Tensor):
        super().__init__()
        self.matrix, self.centre, self.scale = (nn.Parameter(t.clone()) for t in (matrix, centre, scale))

    def forward(self, x):
        loc = (x - self.centre) @ self.matrix.T
        return loc, self.scale.expand(loc.shape)


@dataclass
class Solution:
    """The maximum-likelihood solution with R = I, so that the posterior is diagonal."""

    w: Tensor
    b: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, x: Tensor, k: int, correction: int = 0):
        values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=correction))
        values, vectors = values.flip(0), vectors.flip(1)
        noise = values[k:].mean()
        return cls(vectors[:, :k] * (values[:k] - noise).sqrt(), x.mean(0), noise.sqrt())

    def evidence(self, x: Tensor) -> Tensor:
        cov = self.w @ self.w.T + self.sigma**2 * torch.eye(len(self.b), dtype=F64)
        r = x - self.b
        square = (r * torch.linalg.solve(cov, r.T).T).sum(-1)
        return -0.5 * (square + torch.linalg.slogdet(cov).logabsdet + len(self.b) * LOG_2PI)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """The matrix that takes x - b to the mean, and the covariance."""
        m = self.w.T @ self.w + self.sigma**2 * torch.eye(self.w.shape[1], dtype=F64)
        return torch.linalg.solve(m, self.w.T), self.sigma**2 * torch.linalg.inv(m)

    def encoder(self) -> LinearEncoder:
        matrix, cov = self.posterior()
        assert (cov - cov.diag().diag()).abs().max() < 1e-12
        return LinearEncoder(matrix, self.b, cov.diag().sqrt())


def linear_data(n=60, d=5, k=2, seed=0, noise=0.3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(d, k, generator=g, dtype=F64) * torch.tensor([2.0, 1.0], dtype=F64)
    return torch.randn(n, k, generator=g, dtype=F64) @ w.T + noise * torch.randn(n, d, generator=g, dtype=F64) + 1.0


def linear_pair(solution: Solution, encoder, objective=None, scale="fixed") -> Pair:
    d, k = solution.w.shape
    decoder = nn.Linear(k, d).double()
    with torch.no_grad():
        decoder.weight.copy_(solution.w)
        decoder.bias.copy_(solution.b)
    if scale == "fixed":
        noise = fixed(float(solution.sigma))
    else:
        noise = LearnedScale(1, start=float(solution.sigma)).double()
        with torch.no_grad():
            noise.log_excess.copy_(torch.log(solution.sigma - noise.minimum))
    return Pair(LatentGaussian(StandardPrior(k).double(), decoder, noise), AmortisedNormal(encoder), objective)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_evidence_by_hand_is_scikit_learn_s(k):
    """scikit-learn divides by n - 1; the arithmetic is the same."""
    x = linear_data()
    pca = PCA(k).fit(x.numpy())
    assert Solution.of(x, k, correction=1).evidence(x).mean().item() == pytest.approx(pca.score(x.numpy()), abs=1e-9)


def test_evidence_by_hand_is_a_multivariate_normal_and_a_maximum():
    x = linear_data()
    s = Solution.of(x, 2)
    cov = s.w @ s.w.T + s.sigma**2 * torch.eye(5, dtype=F64)
    theirs = torch.distributions.MultivariateNormal(s.b, cov).log_prob(x)
    torch.testing.assert_close(s.evidence(x), theirs)
    torch.manual_seed(0)
    for _ in range(20):
        other = Solution(s.w + 0.02 * torch.randn_like(s.w), s.b, s.sigma * (1 + 0.02 * torch.randn(1, dtype=F64)))
        assert other.evidence(x).mean() < s.evidence(x).mean()


@pytest.mark.parametrize("scale", ["fixed", "learned"])
@pytest.mark.parametrize("rows", [1, 60])
def test_elbo_at_the_ppca_optimum_is_the_evidence_without_variance(scale, rows):
    x = linear_data()
    s = Solution.of(x, 2)
    pair = linear_pair(s, s.encoder(), ELBO(sampled=["z"]), scale)
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        losses.append(pair(x[:rows]).total.detach())
    torch.testing.assert_close(torch.stack(losses), -s.evidence(x[:rows]).mean().expand(20), rtol=1e-10, atol=1e-10)


def test_elbo_at_the_ppca_optimum_with_particles():
    x = linear_data()
    s = Solution.of(x, 2)
    pair = linear_pair(s, s.encoder(), ELBO(sampled=["z"], particles=4))
    torch.testing.assert_close(-pair(x).total, s.evidence(x).mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_renyi_is_exact_at_the_ppca_optimum_for_every_alpha(alpha):
    x = linear_data()
    s = Solution.of(x, 2)
    pair = linear_pair(s, s.encoder(), Stock(RenyiELBO(alpha=alpha, num_particles=3)))
    torch.testing.assert_close(pair(x).bound, s.evidence(x).mean(), rtol=1e-8, atol=1e-8)


def test_analytic_divergence_is_right_on_average_but_varies():
    x = linear_data()
    s = Solution.of(x, 2)
    pair = linear_pair(s, s.encoder())
    torch.manual_seed(0)
    totals = torch.stack([pair(x).total.detach() for _ in range(400)])
    assert totals.std() > 1e-3  # E_q log p(x | z) is still a draw
    assert abs(totals.mean() + s.evidence(x).mean()) < 4 * totals.std() / 20


def gaussian_kl(m0, cov0, m1, cov1):
    """KL[N(m0, cov0) || N(m1, cov1)] for rows m0, m1."""
    r = m1 - m0
    square = (r * torch.linalg.solve(cov1, r.T).T).sum(-1)
    trace = torch.linalg.solve(cov1, cov0).diagonal().sum()
    return 0.5 * (trace + square - len(cov0) + torch.logdet(cov1) - torch.logdet(cov0))


def test_a_wrong_encoder_costs_exactly_its_divergence_from_the_posterior():
    """evidence - ELBO = KL[q || p(z | x)] in expectation, and log q - log p(z | x) at every draw."""
    x = linear_data()[:4].repeat(20_000, 1)
    s = Solution.of(linear_data(), 2)
    encoder = s.encoder()
    torch.manual_seed(1)
    with torch.no_grad():
        encoder.matrix += 0.03 * torch.randn_like(encoder.matrix)
        encoder.centre += 0.05
        encoder.scale *= torch.tensor([1.5, 0.7], dtype=F64)
    matrix, cov = s.posterior()
    loc, scale = encoder(x)
    mean = (x - s.b) @ matrix.T
    gap = gaussian_kl(loc, scale[0].square().diag(), mean, cov).mean()
    assert gap > 0.05

    pair, analytic = linear_pair(s, encoder, ELBO(sampled=["z"])), linear_pair(s, encoder)
    torch.manual_seed(2)
    sampled = pair(x).bound
    torch.manual_seed(2)
    z = loc + scale * torch.randn_like(loc)
    log_q = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
    log_posterior = torch.distributions.MultivariateNormal(mean, cov).log_prob(z)
    pointwise = log_q - log_posterior
    torch.testing.assert_close(s.evidence(x).mean() - sampled, pointwise.mean(), rtol=1e-8, atol=1e-8)

    torch.manual_seed(3)
    bound = analytic(x).bound  # with the analytic KL to the prior
    error = 5 * pointwise.std() / math.sqrt(len(x))
    assert error < gap / 5
    # Five standard errors; the error of the analytic form is that of E_q log p(x | z), of the same order.
    assert abs(s.evidence(x).mean() - sampled - gap) < error
    assert abs(s.evidence(x).mean() - bound - gap) < 2 * error
    assert sampled < s.evidence(x).mean() and bound < s.evidence(x).mean()


def test_gradient_vanishes_at_the_ppca_optimum():
    """All of the data, KL sampled: the gradient for the model is zero on average, for the ELBO is tight there."""
    x = linear_data()
    s = Solution.of(x, 2)
    pair = linear_pair(s, s.encoder(), ELBO(sampled=["z"]), "learned")
    torch.manual_seed(4)
    w, e = pair.model.decoder.weight, pair.model.scale.log_excess
    draws = [torch.autograd.grad(pair(x.repeat(50, 1)).total, [w, e]) for _ in range(50)]
    for i in range(2):
        g = torch.stack([d[i] for d in draws])
        assert (g.mean(0).abs() < 5 * g.std(0) / math.sqrt(50) + 1e-9).all()


def test_training_reaches_the_ppca_optimum():
    """From random weights with the library's own encoder and training loop.

    Tolerance: no linear model beats the maximum-likelihood one, so the gap is one-sided. Adam with a rate that goes
    to zero leaves 0.002 nats per datum here; 0.01 is 1 % of what a model with one code less loses (asserted too).
    """
    x = linear_data(n=200, noise=0.7)
    best = Solution.of(x, 2).evidence(x).mean()
    worse = Solution.of(x, 1).evidence(x).mean()
    torch.manual_seed(0)
    model = LatentGaussian(StandardPrior(2), nn.Linear(2, 5), LearnedScale(1, start=1.0))
    pair = Pair(model, AmortisedNormal(GaussianEncoder(5, (), 2)), ELBO(particles=10)).double()
    pv.fit(pair, x, steps=500, batch_size=200, lr=0.1, progress=False)
    trained = Solution(model.decoder.weight.detach(), model.decoder.bias.detach(), model.scale().detach())
    evidence = trained.evidence(x).mean()
    assert best - worse > 1.0
    assert -1e-9 < best - evidence < 0.01
    # The bound too is tight: the ELBO aligns the axes of W, where the posterior is diagonal.
    torch.manual_seed(1)
    bound = ELBO(sampled=["z"], particles=200)(pair.model, pair.guide, x).bound
    assert best - bound < 0.03


# --- the index-conditional covariance ---------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [1e-3, 0.1, 2.0])
def test_brute_force_the_best_covariance_is_the_residual_squared_plus_the_floor(floor):
    """max over Sigma of N(e; 0, Sigma) exp(-floor^2 / 2 Sigma): on a grid, and its value is the library's loss."""
    residuals = torch.tensor([0.0, 0.01, 0.3, -1.7], dtype=F64)
    grid = torch.logspace(-8, 3, 400_001, dtype=F64)
    cost = 0.5 * (LOG_2PI + grid.log() + residuals[:, None] ** 2 / grid + floor**2 / grid)
    best, where = cost.min(1)
    torch.testing.assert_close(grid[where], residuals**2 + floor**2, rtol=1e-4, atol=0)

    mu = nn.Linear(1, 4).double()
    model = IndexConditional(StandardPrior(1).double(), mu, fixed(floor), math.inf)
    pair = Pair(model, AmortisedNormal(LinearEncoder(torch.zeros(1, 4, dtype=F64), torch.zeros(4), torch.ones(1))))
    with torch.no_grad():
        mu.weight.zero_()
    x = (mu.bias.detach() + residuals)[None]
    terms = pair(x).terms
    torch.testing.assert_close(terms["x"] + terms["sigma"], best.sum(), rtol=1e-8, atol=1e-8)
    # Eq. 7: it is also the variance of the likelihood itself.
    drawn = pair.traces(x)[1].nodes["x"]["fn"].base_dist
    torch.testing.assert_close(drawn.variance[0], residuals**2 + floor**2)
    torch.testing.assert_close(drawn.mean[0], mu.bias.detach())


@pytest.mark.parametrize("width", [1.0, 3.0])
@pytest.mark.parametrize("floor", [1e-4, 1e-2, 0.5, None])
def test_index_conditional_is_sparse_outlier_plus_its_constant(floor, width):
    """Also per datum: two batches differ by the same constant; tau does not matter."""
    torch.manual_seed(0)
    d = 6
    indexed = pv.indexed_ic_vae(d, 2, (7,), floor=floor, width=width).double()
    sparse = pv.ic_vae(d, 2, (7,), floor=floor, width=width).double()
    pv.warm_start(sparse, indexed)
    for noise in (0.01, 0.3):
        model = SparseOutlier(sparse.model.prior, sparse.model.decoder, sparse.model.floor, width, noise)
        pair = Pair(model, OutlierDelta(sparse.guide.encoder, model.decoder, noise))
        for x in torch.rand(3, 4, d, dtype=F64):
            values = []
            for p in (indexed, pair):
                torch.manual_seed(1)
                values.append(p(x).total)
            constant = d * (1 + LOG_2PI) / 2
            assert IndexConditional.constant(d) == pytest.approx(constant)
            torch.testing.assert_close(values[0] - values[1], torch.tensor(constant, dtype=F64), rtol=0, atol=1e-9)
            own = [dict(p.named_parameters()) for p in (indexed, pair)]
            assert own[0].keys() == own[1].keys()
            grads = [torch.autograd.grad(v, list(o.values())) for v, o in zip(values, own, strict=True)]
            for left, right in zip(*grads, strict=True):
                torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


# --- Student's t ------------------------------------------------------------------------------------------------


def t_pair(d=4, k=2, nu=1.5, s=0.3, seed=0, sampled=("w",)) -> Pair:
    torch.manual_seed(seed)
    decoder, encoder = nn.Linear(k, d).double(), GaussianEncoder(d, (5,), k).double()
    scale, dof = fixed(s), fixed(nu)
    model = PrecisionMixture(StandardPrior(k).double(), decoder, scale, dof)
    return Pair(model, ConjugatePrecision(encoder, decoder, scale, dof), ELBO(sampled=sampled))


@pytest.mark.parametrize("nu", [0.05, 1.0, 30.0])
def test_explicit_weights_are_the_collapsed_student_t(nu):
    pair = t_pair(nu=nu)
    x = torch.randn(6, 4, dtype=F64)
    torch.manual_seed(1)
    total = pair(x).total
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    likelihood = torch.distributions.StudentT(nu, pair.model.decoder(z), 0.3).log_prob(x).sum(-1)
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)
    by_hand = (kl - likelihood).mean()
    torch.testing.assert_close(total, by_hand, rtol=1e-9, atol=1e-9)
    parameters = list(pair.parameters())
    ours, theirs = torch.autograd.grad(total, parameters), torch.autograd.grad(by_hand, parameters)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-9)


def test_learned_scale_and_dof_of_the_t_vae_get_the_student_t_s_gradient():
    torch.manual_seed(0)
    pair = pv.t_vae(4, 2, (5,)).double()
    x = torch.rand(6, 4, dtype=F64)
    torch.manual_seed(1)
    total = pair(x).total
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    s = 1e-3 + pair.model.scale.log_excess.exp()
    nu = 1e-2 + pair.model.dof.log_excess.exp()
    by_hand = -torch.distributions.StudentT(nu, pair.model.decoder(z), s).log_prob(x).sum(-1).mean()
    own = [pair.model.scale.log_excess, pair.model.dof.log_excess]
    for left, right in zip(torch.autograd.grad(total, own), torch.autograd.grad(by_hand, own), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-9)


def test_any_draw_of_the_weights_gives_the_same_loss_and_gradient():
    """z is held by a point mass of an encoder; only w varies between seeds."""
    pair = t_pair()
    guide = pair.guide
    with torch.no_grad():
        guide.encoder.raw_scale.weight.zero_()
        guide.encoder.raw_scale.bias.fill_(-60.0)  # sigma_z = 1e-5: z moves by nothing that counts here

    class Still(nn.Module):
        def forward(self, x):
            loc, scale = guide.encoder(x)
            return loc.detach() * 0 + 0.4, scale * 0 + 1e-13

    other = Pair(pair.model, ConjugatePrecision(Still(), guide.decoder, guide.scale, guide.dof), ELBO(sampled=["w"]))
    x = torch.randn(6, 4, dtype=F64)
    totals, grads, weights = [], [], []
    for seed in range(10):
        torch.manual_seed(seed)
        loss = other(x)
        totals.append(loss.total.detach())
        weights.append(loss.terms["w"].detach())
        grads.append(torch.autograd.grad(loss.total, pair.model.decoder.weight)[0])
    assert torch.stack(weights).std() > 0.05  # the terms do vary
    assert torch.stack(totals).std() < 1e-9
    assert torch.stack(grads).std(0).max() < 1e-8


def test_the_analytic_divergence_of_the_weights_is_right_on_average_only():
    """Why ``sampled=["w"]``: with the analytic KL the two terms no longer cancel."""
    x = torch.randn(6, 4, dtype=F64)
    values = {}
    for sampled in ((), ("w",)):
        pair = t_pair(sampled=sampled)
        torch.manual_seed(2)
        values[sampled] = torch.stack([pair(x.repeat(100, 1)).total.detach() for _ in range(60)])
    error = values[()].std() / math.sqrt(60)
    assert abs(values[()].mean() - values[("w",)].mean()) < 6 * error
    assert values[()].std() > 1e-3


def test_student_t_tends_to_the_index_conditional_as_dof_goes_to_zero():
    """Differences of the losses between data, with the floor s sqrt(nu) held still."""
    floor, d, k = 0.05, 4, 2
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(k, d).double(), GaussianEncoder(d, (5,), k).double()
    prior = StandardPrior(k).double()
    ic_model = SparseOutlier(prior, decoder, fixed(floor))
    ic = Pair(ic_model, OutlierDelta(encoder, decoder, ic_model.noise))
    rows = torch.rand(8, 1, d, dtype=F64)

    def differences(pair):
        losses = []
        for x in rows:
            torch.manual_seed(5)
            losses.append(pair(x).total.detach())
        losses = torch.stack(losses)
        return losses[1:] - losses[:1]

    target = differences(ic)
    errors = []
    for nu in (1e-1, 1e-2, 1e-3):
        scale, dof = fixed(floor / math.sqrt(nu)), fixed(nu)
        model = PrecisionMixture(prior, decoder, scale, dof)
        t = Pair(model, ConjugatePrecision(encoder, decoder, scale, dof), ELBO(sampled=["w"]))
        errors.append((differences(t) - target).abs().max().item())
    assert target.abs().max() > 0.3
    # The loss is (1 + nu)/2 log(floor^2 + r^2) + constant: the error is linear in nu.
    assert errors[0] == pytest.approx(10 * errors[1], rel=1e-3)
    assert errors[1] == pytest.approx(10 * errors[2], rel=1e-3)
    assert errors[2] < 2e-3 * target.abs().max()


# --- affine decoders against integrals on a grid ----------------------------------------------------------------


def grid(k: int) -> tuple[Tensor, float]:
    """Codes (M, k) and log of the cell: +-8 standard deviations of the prior."""
    axis = torch.linspace(-8, 8, 20_001 if k == 1 else 801, dtype=F64)
    points = torch.cartesian_prod(*[axis] * k).reshape(-1, k)
    return points, k * math.log(float(axis[1] - axis[0]))


def integral(log_likelihood, k: int, x: Tensor) -> Tensor:
    """log of int N(z; 0, I) p(x | z) dz for every row of x."""
    z, log_cell = grid(k)
    log_prior = -0.5 * (z**2).sum(-1) - k * LOG_2PI / 2
    return torch.stack([torch.logsumexp(log_prior + log_likelihood(row, z), 0) + log_cell for row in x])


def affine_models(k: int, floor=0.2, width=6.0, d=3, seed=0):
    """The three affine models with one decoder, their likelihoods by hand, and guides wider than any posterior.

    A guide narrower than the posterior would have weights without a variance, and K draws would not come close.
    """
    torch.manual_seed(seed)
    decoder = nn.Linear(k, d).double()
    encoder = LinearEncoder(torch.full((k, d), 0.1), torch.zeros(d), torch.full((k,), 1.2)).double()
    prior, eps = StandardPrior(k).double(), fixed(floor)
    mass = 2 * math.asinh(width / floor)

    def jeffreys(row, z):
        mu = z @ decoder.weight.detach().T + decoder.bias.detach()
        return (-0.5 * ((row - mu) ** 2 + floor**2).log() - math.log(mass)).sum(-1)

    def student(row, z):
        mu = z @ decoder.weight.detach().T + decoder.bias.detach()
        return torch.distributions.StudentT(2.0, mu, floor).log_prob(row).sum(-1)

    sparse = SparseOutlier(prior, decoder, eps, width)
    indexed = IndexConditional(prior, decoder, eps, width)
    scale, dof = fixed(floor), fixed(2.0)
    mixture = PrecisionMixture(prior, decoder, scale, dof)
    return {
        "affine": (Pair(sparse, OutlierDelta(encoder, decoder, sparse.noise)), jeffreys, 0.0),
        "indexed": (Pair(indexed, AmortisedNormal(encoder)), jeffreys, d * (1 + LOG_2PI) / 2),
        "t": (Pair(mixture, ConjugatePrecision(encoder, decoder, scale, dof), ELBO(sampled=["w"])), student, 0.0),
    }


DATA = torch.tensor([[0.5, -0.3, 0.2], [2.0, 0.1, -0.4], [0.0, 0.0, 5.0]], dtype=F64)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("which", ["affine", "indexed", "t"])
def test_elbo_lies_below_the_integral_and_more_particles_come_closer(which, k):
    """Renyi with alpha = 0 is the importance-weighted bound, monotone in K, and tight as K grows.

    The point mass of the sparse-outlier guide needs no way around: its log-density and that of the observation are
    in every particle's weight and cancel there. (With tau > 0 the integral is that of the model as tau -> 0.)
    """
    pair, likelihood, constant = affine_models(k)[which]
    evidence = integral(likelihood, k, DATA).mean() - constant
    # The copies of the data differ by noise alone: the mean over them estimates the expected bound.
    copies = 200
    x = DATA.repeat(copies, 1)
    bounds, errors = [], []
    for particles in (1, 10, 500):
        torch.manual_seed(6)
        renyi = Stock(RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1))
        with torch.no_grad():
            parts = torch.stack([renyi(pair.model, pair.guide, part).bound for part in x.chunk(10)])
        bounds.append(parts.mean())
        errors.append(parts.std() / math.sqrt(len(parts)))
    torch.manual_seed(6)
    with torch.no_grad():
        elbo = pair(x).bound
    assert elbo < evidence - 5 * errors[0]
    assert abs(elbo - bounds[0]) < 6 * errors[0] + 0.01
    assert bounds[0] + 3 * errors[0] < bounds[1] - 3 * errors[1]
    assert bounds[1] < bounds[2] < evidence + 4 * errors[2]
    assert evidence - bounds[2] < 0.03 + 4 * errors[2]
    assert evidence - bounds[0] > 0.1


@pytest.mark.parametrize("k", [1, 2])
def test_the_grid_itself_is_right(k):
    """A Gaussian likelihood on the same grid has a known integral."""
    torch.manual_seed(0)
    s = Solution(torch.randn(3, k, dtype=F64), torch.randn(3, dtype=F64), torch.tensor(0.5, dtype=F64))
    on_grid = integral(lambda row, z: dist.Normal(z @ s.w.T + s.b, s.sigma).log_prob(row).sum(-1), k, DATA)
    torch.testing.assert_close(on_grid, s.evidence(DATA), rtol=1e-6, atol=1e-6)

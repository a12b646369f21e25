"""Programs and objectives by themselves: what moves, where scales begin, what is shown."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from small import BINARY, sizes

import pyro_vaes as pv
from pyro_vaes.guides.outlier import OutlierDelta
from pyro_vaes.inference.objective import sampled_sites, trace_of
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.sparse_outlier import SparseOutlier
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.variants.conditional import direct_output
from pyro_vaes.variants.staged import first_stage


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_the_joint_density_moves_every_parameter_of_the_model(name):
    """At its own draws: where a guide is exact, a gradient that the model lacks may be one that cancels."""
    pair = pv.variant(name)(**sizes(name, 8, 3, (6, 5)))
    y, x = pair.first_condition(6), torch.rand(6, 8)
    p = trace_of(pair.model, x.round() if name in BINARY else x, y, None, 1)
    sum(site["fn"].log_prob(site["value"].detach()).sum() for _, site in sampled_sites(p)).backward()
    for of, parameter in pair.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, of


@pytest.mark.parametrize("name", [n for n in pv.VARIANTS if n != "m2_vae"])
def test_a_sampler_sees_the_whole_density(name):
    """The gradient by a code, which NUTS follows, is the slope of log p(x, z) at that code, the other sites held."""
    pair = pv.variant(name)(**sizes(name, 8, 3, (6, 5))).double().eval()
    x = torch.rand(4, 8, dtype=torch.float64)
    x, y = x.round() if name in BINARY else x, pair.first_condition(4)
    drawn = trace_of(pair.model, x, y, None, 1)
    site = next(n for n, s in sampled_sites(drawn) if not s["is_observed"])
    start, way = drawn.nodes[site]["value"].detach(), torch.randn(drawn.nodes[site]["value"].shape).double()

    def density(step):
        drawn.nodes[site]["value"] = start + step * way
        p = trace_of(pair.model, x, y, None, 1, at=drawn)
        return sum(s["fn"].log_prob(s["value"]).sum() for _, s in sampled_sites(p))

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(density(t), t)
    with torch.no_grad():
        found = (density(1e-6) - density(-1e-6)) / 2e-6
    torch.testing.assert_close(slope, found, rtol=1e-4, atol=1e-4)


OBJECTIVES = {
    "elbo": lambda: pv.ELBO(),
    "iwae": lambda: pv.ImportanceWeighted(3),
    "stl": lambda: pv.ImportanceWeighted(3, estimator="stl"),
    "dreg": lambda: pv.ImportanceWeighted(3, estimator="dreg"),
    "stock": lambda: pv.Stock(Trace_ELBO()),
    "renyi": lambda: pv.Stock(RenyiELBO(num_particles=2)),
    "recycled": lambda: pv.Recycled(pv.ELBO(), 2),
    "recycled means": lambda: pv.Recycled(pv.ELBO(), 2, mean=True),
    "wae": lambda: pv.WAE(),
    "empirical": lambda: pv.EmpiricalPrior(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_shown_has_no_history(name):
    """A bound that is kept over a whole run must not keep every step's graph; nor may the terms of weights."""
    pair = pv.l2_vae(8, 3, (6,))
    pair.objective = OBJECTIVES[name]()
    loss = pair(torch.rand(6, 8))
    assert loss.total.requires_grad and not loss.bound.requires_grad
    if isinstance(pair.objective, pv.ImportanceWeighted):
        assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize(
    ("name", "given", "scale", "start"),
    [
        ("gamma_vae", {}, "model.scale", 0.3),  # about that of uniform pixels, sqrt(1 / 12)
        ("two_stage_vae", {}, "model.scale", 0.3),
        ("two_stage_vae", {}, "model.second_scale", 1.0),  # of codes, which are to be N(0, I)
        ("t_vae", {}, "model.scale", 0.1),
        ("t_vae", {"minimum": 0.25}, "model.scale", 0.5),  # twice what it may not fall below
        ("t_vae", {}, "model.dof", 1.0),
        ("datum_t_vae", {}, "model.scale", 0.1),
        ("datum_t_vae", {}, "model.dof", 1.0),
        ("rvae", {}, "model.scale", 1.0),  # standardised data
        ("affine_vae", {}, "model.scale", 0.3),
        ("affine_vae", {"minimum": 0.25}, "model.scale", 0.5),
        ("ica_vae", {}, "model.scale", 0.3),
        ("memoriser", {}, "model.scale", 0.3),
        ("memoriser", {"points": torch.rand(5, 8)}, "guide.spread", 0.05),  # a quarter of a fifth
    ],
)
def test_where_a_learned_scale_begins_and_what_it_stays_above(name, given, scale, start):
    module = pv.variant(name)(**sizes(name, 8, 3, (6, 5)) | given).get_submodule(scale)
    torch.testing.assert_close(module(), torch.full_like(module(), start))
    with torch.no_grad():
        module.log_excess.fill_(-50.0)
    least = {"guide.spread": 0.005, "model.dof": 0.01}.get(scale, {"rvae": 0.22, "ica_vae": 0.01}.get(name, 0.001))
    torch.testing.assert_close(module(), torch.full_like(module(), given.get("minimum", least)))


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_the_noise_that_makes_an_outlier_a_density_cancels(noise):
    """Wang et al. (2018), Eq. 17: with q(s) at x - mu, q(s) and p(x | z, s) are the same number, whatever it is."""
    decoder = torch.nn.Linear(3, 8)
    model = SparseOutlier(StandardPrior(3), decoder, FixedScale(0.1), noise=noise)
    pair = pv.Pair(model, OutlierDelta(GaussianEncoder(8, [5], 3), decoder, noise=noise))
    q, p = pair.traces(torch.rand(6, 8))
    given, peak = p.nodes["x"]["fn"].log_prob(p.nodes["x"]["value"]), q.nodes["s"]["fn"].log_prob(q.nodes["s"]["value"])
    torch.testing.assert_close(given, peak)
    torch.testing.assert_close(peak, torch.full((6,), -8 * math.log(noise * math.sqrt(2 * math.pi))))


def test_the_prior_is_of_the_family_and_the_scale_that_it_is_told():
    value = torch.tensor([[0.5, -2.0]])
    found = StandardPrior(2, dist.Laplace, 0.25)().log_prob(value)
    torch.testing.assert_close(found, (-value.abs() / 0.25 - math.log(0.5)).sum(-1))
    torch.testing.assert_close(StandardPrior(2)().log_prob(value), -value.square().sum(-1) / 2 - math.log(2 * math.pi))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: pv.Denoised(inner, "impulse:0.5"),
        lambda inner: pv.Masked(inner, 0.5),
        lambda inner: pv.Recycled(inner, 1),
        lambda inner: pv.ClassifierGAN(inner, pv.TwoHeads((1, 2, 4), filters=(4,), classes=10)),
    ],
    ids=["Denoised", "Masked", "Recycled", "ClassifierGAN"],
)
def test_what_wraps_an_objective_hands_the_size_and_the_condition_on(wrap):
    seen = []

    def inner(model, guide, x, y=None, *, size=None):
        q = trace_of(guide, x, y, size, 1)
        p = trace_of(model, x, y, size, 1, at=q)
        seen.append(([s["scale"] for t in (q, p) for _, s in sampled_sites(t)], y, size))
        return pv.ELBO()(model, guide, x, y, size=size)

    pair, y = pv.cvae(8, latent_dim=3, hidden=(6,)), torch.eye(10)[:6]
    wrap(inner)(pair.model, pair.guide, torch.rand(6, 8).round(), y, size=30)
    assert seen[0][0] == [5.0, 5.0, 5.0] and seen[0][1] is y and seen[0][2] == 30


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "recycled means"])  # which are not 0 or 1
def test_an_objective_hands_the_condition_on_to_both_programs(name):
    """With another condition, and the same noise, the loss is another one."""
    pair, x = pv.cvae(8, classes=3, latent_dim=3, hidden=(6,)), torch.rand(6, 8).round()
    pair.objective = OBJECTIVES[name]()
    losses = []
    for row in range(2):
        torch.manual_seed(2)
        losses.append(pair(x, torch.eye(3)[row].expand(6, 3)))
    assert losses[0].total != losses[1].total
    gradients = torch.autograd.grad(losses[0].total, list(pair.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("given", [{"beta": {"x": 2.0}}, {"exact": ["x"]}])
def test_a_site_of_the_model_alone_is_not_weighed(given):
    pair = pv.l2_vae(8, 3, (6,))
    with pytest.raises(pv.InputError, match="names the site 'x', which the guide does not sample"):
        pv.ELBO(**given)(pair.model, pair.guide, torch.rand(6, 8))


def test_a_condition_may_have_many_entries():
    assert direct_output(8, condition_dim=12, hidden=(3,)).condition_dim == 12
    assert pv.cvae(8, classes=12).condition_dim == 12


def test_a_first_stage_is_for_the_data_of_its_pair():
    for real in (False, True):
        pair = pv.two_stage_vae(8, 3, (6,), second_hidden=(5,), real=real)
        assert first_stage(pair).range == pair.range


@pytest.mark.parametrize("grey", [0.05, 0.75])
def test_pseudo_inputs_begin_near_the_grey_that_was_asked_for(grey):
    inputs = pv.vamp_vae(8, 3, (6,), components=200, grey=grey).model.prior.raw.sigmoid()
    assert abs(inputs.median() - grey) < 0.02

"""Completion: closed forms, the sign of the prior, energies that never rise, seen pixels that stay as they are."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_contract import SMALL, batch, condition, make
from torch import nn

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.completion.descent import descend
from pyro_vaes.inference.completion.field import Field
from pyro_vaes.inference.completion.local import local
from pyro_vaes.inference.completion.sites import layout
from pyro_vaes.inference.densities import quietly
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.scales import FixedScale

MASK = torch.tensor([1.0, 1, 1, 0, 0, 1, 1, 0])
SEEN = MASK.bool()
POINTS = {"autoencoder", "wae_mmd", "wae_gan", "ae_classifier"}  # guides without a density
IMPROPER = {"ic_vae", "indexed_ic_vae", "affine_ic_vae", "ric_vae", "induced_ae"}


class Linear(nn.Module):
    """x -> A (x - b), and a fixed standard deviation."""

    def __init__(self, a, b, scale):
        super().__init__()
        self.a, self.b, self.scale = a, b, scale

    def forward(self, x):
        loc = (x - self.b) @ self.a.T
        return loc, self.scale.expand(loc.shape)


def linear_pair(sd=0.5, seed=0, blind=False):
    """x ~ N(W z + b, sd^2 I) in float64, with the guide that is exact where all of x is seen and W has no angles."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(8, 2, generator=g, dtype=torch.float64)
    if blind:
        w[~SEEN] = 0
        w[SEEN] = torch.linalg.qr(w[SEEN])[0] * torch.tensor([1.0, 2.0], dtype=torch.float64)
    decoder = nn.Linear(2, 8).double()
    decoder.weight.data, decoder.bias.data = w, torch.randn(8, generator=g, dtype=torch.float64)
    precision = torch.eye(2, dtype=torch.float64) + w.T @ w / sd**2
    encoder = Linear(precision.inverse() @ w.T / sd**2, decoder.bias.data, precision.diagonal().rsqrt())
    model = LatentGaussian(StandardPrior(2), decoder, FixedScale(sd)).double()
    return pv.Pair(model, AmortisedNormal(encoder).double(), name="linear")


def posterior(pair, x, seen=SEEN, ridge=None):
    """Mean and covariance of z given the seen entries, and of the hidden ones' mean."""
    w, b = pair.model.decoder.weight.data, pair.model.decoder.bias.data
    sd2 = float(pair.model.scale(torch.zeros(1)) ** 2)
    precision = w[seen].T @ w[seen] / sd2 + (1 if ridge is None else ridge / 2 / sd2) * torch.eye(2).double()
    cov = precision.inverse()
    z = (x[:, seen] - b[seen]) @ w[seen] / sd2 @ cov
    return z, cov, z @ w.T + b, (w @ cov @ w.T).diagonal().sqrt()


@pytest.fixture
def linear():
    pair = linear_pair()
    return pair, torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_map_code_in_closed_form(linear):
    pair, x = linear
    found = pv.complete(pair, x, MASK)
    z, _, mean, _ = posterior(pair, x)
    torch.testing.assert_close(found.z["z"][0], z, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.mean[:, ~SEEN], mean[:, ~SEEN], atol=1e-6, rtol=1e-6)


def test_gamma_is_a_ridge_and_twice_the_variance_is_the_likelihood(linear):
    pair, x = linear
    for gamma in (0.0, 0.3, 2.0):
        found = pv.complete(pair, x, MASK, gamma=gamma)
        torch.testing.assert_close(found.z["z"][0], posterior(pair, x, ridge=gamma)[0], atol=1e-6, rtol=1e-6)
    ours, squares = pv.complete(pair, x, MASK), pv.complete(pair, x, MASK, gamma=0.5)
    torch.testing.assert_close(ours.mean, squares.mean, atol=1e-6, rtol=1e-6)
    # 2 sd^2 times the nats, but for the likelihood's constant.
    constant = 5 * (torch.tensor(0.5).log() + 0.5 * torch.tensor(2 * torch.pi).log()).double()
    torch.testing.assert_close(squares.energy, 0.5 * (ours.energy - constant), atol=1e-6, rtol=1e-6)


def test_the_prior_pulls_towards_its_mode_and_not_away(linear):
    pair, x = linear
    norms = [pv.complete(pair, x, MASK, gamma=g).z["z"].norm() for g in (0.0, 1.0, 100.0, 1e6)]
    assert norms[0] > norms[1] > norms[2] > norms[3] and norms[3] < 1e-4


def test_importance_against_the_closed_form(linear):
    pair, x = linear
    found = pv.complete(pair, x, MASK, method="importance", samples=20_000, chunk=5000, draws=2000)
    z, _, mean, sd = posterior(pair, x)
    assert (found.ess > 1000).all() and (found.khat < 0.7).all() and found.shares["prior"] == 0.25
    error = sd[~SEEN] / found.ess.sqrt()[:, None]
    assert ((found.mean - mean)[:, ~SEEN].abs() < 5 * error).all()
    torch.testing.assert_close(found.sd[:, ~SEEN], sd[~SEEN].expand(3, -1), rtol=0.1, atol=0)
    assert ((found.z["z"].mean(0) - z).abs() < 0.15).all()
    torch.testing.assert_close(found.draws.std(0)[:, ~SEEN], sd[~SEEN].expand(3, -1), rtol=0.15, atol=0)


def test_an_exact_guide_has_equal_weights(monkeypatch):
    monkeypatch.setattr("pyro_vaes.inference.completion.local.MOST", 1)
    pair = linear_pair(blind=True)
    x = torch.randn(3, 8, dtype=torch.float64)
    found = pv.complete(pair, x, MASK, method="importance", samples=200, prior_share=0)
    torch.testing.assert_close(found.ess, torch.full((3,), 200.0).double())
    assert (found.khat == 0).all()
    assert (found.sd < 1e-6).all()  # nothing is known of hidden entries but their constant
    prior = pv.complete(pair, x, MASK, method="importance", samples=200, prior_share=1)
    assert (prior.ess < 150).all()


def test_the_gaussian_at_the_mode_is_the_posterior_where_that_is_one(linear, monkeypatch):
    pair, x = linear
    with quietly(pair):
        at = Field(pair, layout(pair, x, None), x, None, SEEN.expand_as(x))
        near = local(at, posterior(pair, x)[0])
        torch.testing.assert_close(near.scale @ near.scale.mT, posterior(pair, x)[1].expand(3, 2, 2))
    # Any guide's weights are equal then but for the guide's own draws: none here, as of a guide that cannot score.
    monkeypatch.setattr("pyro_vaes.inference.completion.weighing.scores_codes", lambda field: False)
    found = pv.complete(pair, x, MASK, method="importance", samples=200, prior_share=0)
    torch.testing.assert_close(found.ess, torch.full((3,), 200.0).double())
    assert found.shares == {"mode": 1}


def test_nuts_against_the_closed_form(linear):
    pair, x = linear
    found = pv.complete(pair, x[:1], MASK, method="nuts", samples=400, warmup=60, chains=2, draws=5)
    _, _, mean, sd = posterior(pair, x[:1])
    assert found.rhat < 1.1 and found.ess > 100 and found.draws.shape == (5, 1, 8)
    assert ((found.mean - mean)[:, ~SEEN].abs() < 5 * sd[~SEEN] / found.ess.sqrt()).all()
    torch.testing.assert_close(found.sd[0, ~SEEN], sd[~SEEN], rtol=0.25, atol=0)


def test_noise_is_that_of_the_likelihood(linear):
    pair, x = linear
    options = {"method": "importance", "samples": 2000, "draws": 2000, "chunk": 2000}
    found = pv.complete(pair, x, MASK, noise=True, **options)
    sd = posterior(pair, x)[3][~SEEN]
    torch.testing.assert_close(found.draws.std(0)[:, ~SEEN], (sd**2 + 0.25).sqrt().expand(3, -1), rtol=0.15, atol=0)
    assert torch.equal(found.draws[:, :, SEEN], x[:, SEEN].expand(2000, -1, -1))


@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name):
    """Seen entries bit for bit, hidden ones never read, energies that never rise; or one line that says why not."""
    method = "optimise" if name in IMPROPER | POINTS else "importance"
    pair, x, y = make(name), batch(name, 4), condition(name, 4)
    if name == "m2_vae":
        with pytest.raises(pv.InputError, match=r"discrete.*give y"):
            pv.complete(pair, x, MASK, y)
        y = torch.arange(4)
    options = {"method": method, "steps": 5, "restarts": 3, "samples": 60, "draws": 3}
    if method == "optimise":
        with pytest.raises(pv.InputError, match="density"):
            pv.complete(pair, x, MASK, y, method="importance")
    options["gamma"] = 0.1 if name in IMPROPER else None
    if name in IMPROPER:
        with pytest.raises(pv.InputError, match="no normalised density"):
            pv.complete(pair, x, MASK, y)
    dirty = torch.where(SEEN, x, torch.nan)
    found, again = pv.complete(pair, dirty, MASK, y, **options), pv.complete(pair, x, SEEN, y, **options)
    for value in (found.mean, found.draws):
        assert value.isfinite().all()
        assert torch.equal(value[..., SEEN], x[:, SEEN].expand_as(value[..., SEEN]))
    assert torch.equal(found.draws, again.draws) and torch.equal(found.trace, again.trace)
    assert (found.trace.diff(dim=0) <= 0).all()
    # An untrained crvae of this size makes the same image of all codes: its guide's mean code is the best already.
    assert name in {"crvae", "crvae_gan", "crvae_classifier"} or (found.trace[-1] < found.trace[0]).all()
    assert torch.equal(found.energy, found.restarts.amin(0))
    if method == "importance":
        assert ((found.ess >= 1) & (found.ess <= 60.001)).all()
        assert ((found.sd > 0) == ~SEEN).all()


def test_a_pair_is_left_as_it_was():
    pair, x = make("ladder_vae"), batch("ladder_vae", 4)  # with batch norm
    pair.train(), pair.model.eval()
    modes = [m.training for m in pair.modules()]
    before, random = {n: v.clone() for n, v in pair.state_dict().items()}, torch.random.get_rng_state()
    for method in ("optimise", "importance", "nuts"):
        pv.complete(pair, x, MASK, method=method, steps=2, samples=4, chains=2, warmup=2, depth=1, draws=2)
    assert modes == [m.training for m in pair.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[n], v) for n, v in pair.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in pair.parameters())
    assert torch.is_grad_enabled() and not list(pyro.get_param_store())


def seen_term(pair, x, values, method="optimise"):
    with quietly(pair):
        field = Field(pair, layout(pair, x, None, method), x, None, SEEN.expand_as(x))
        state = field.state(values)
        return field.terms(state), field.model(values, len(state))


def test_weights_of_entries_are_integrated_out_of_the_seen_ones():
    """A Gamma weight leaves Student's t, a Bernoulli one a mixture of two."""
    x = torch.rand(3, 8)
    for name in ("t_vae", "rvae"):
        pair = make(name)
        values = {"z": torch.randn(2, 3, 3)}
        x = batch(name, 3)
        terms, trace = seen_term(pair, x, values)
        x_fn = trace.nodes["x"]["fn"].base_dist
        if name == "t_vae":
            model = pair.model
            mu, dof, scale = model.decoder(values["z"]), model.dof(values["z"]), model.scale(values["z"])
            expected = dist.StudentT(dof, mu, scale).log_prob(x)
        else:
            weight = trace.nodes["w"]["fn"].base_dist.probs
            ends = []
            for w in (0.0, 1.0):
                with quietly(pair):
                    one = {**values, "w": torch.full((2, 3, 8), w)}
                    program = pyro.poutine.trace(pyro.poutine.condition(pair.model, one)).get_trace(x)
                ends.append(program.nodes["x"]["fn"].base_dist.log_prob(x))
            expected = torch.logaddexp(ends[0] + (1 - weight).log(), ends[1] + weight.log())
            assert x_fn is not None
        torch.testing.assert_close(terms.seen, expected[..., SEEN].double().sum(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(terms.prior, dist.Normal(0, 1).log_prob(values["z"]).sum(-1).double())


def test_a_positive_code_is_moved_as_its_logarithm():
    pair, x = make("datum_t_vae"), batch("datum_t_vae", 3)
    values = {"z": torch.randn(2, 3, 3), "w": torch.rand(2, 3, 1) + 0.5}
    terms, trace = seen_term(pair, x, values)
    gamma = trace.nodes["w"]["fn"].base_dist
    expected = dist.Normal(0, 1).log_prob(values["z"]).sum(-1)
    expected = expected + (gamma.log_prob(values["w"]) + values["w"].log())[..., 0]
    torch.testing.assert_close(terms.prior, expected.double())


def test_codes_of_codes_count_their_conditional_prior():
    pair, x = make("iwae_2"), batch("iwae_2", 3)
    values = {"z_2": torch.randn(2, 3, 3), "z_1": torch.randn(2, 3, 4)}
    terms, _ = seen_term(pair, x, values)
    loc, scale = pair.model.down[0](values["z_2"])
    expected = dist.Normal(0, 1).log_prob(values["z_2"]).sum(-1) + dist.Normal(loc, scale).log_prob(values["z_1"]).sum(
        -1
    )
    torch.testing.assert_close(terms.prior, expected.double())
    logits = pair.model.decoder(values["z_1"])
    expected = dist.Bernoulli(logits=logits).log_prob(x)[..., SEEN].sum(-1)
    torch.testing.assert_close(terms.seen, expected.double())
    found = pv.complete(pair, x, MASK)
    assert {n: tuple(v.shape) for n, v in found.z.items()} == {"z_2": (1, 3, 3), "z_1": (1, 3, 4)}


def test_a_mask_each_is_what_each_would_get_alone():
    pair = make("gaussian_vae").double()
    x = torch.rand(3, 8, dtype=torch.float64)
    masks = torch.stack([MASK, 1 - MASK, torch.tensor([1.0] * 7 + [0])])
    together = pv.complete(pair, x, masks, restarts=1)
    for i in range(3):
        alone = pv.complete(pair, x[i : i + 1], masks[i], restarts=1)
        torch.testing.assert_close(together.mean[i], alone.mean[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(together.mean[i, masks[i].bool()], x[i, masks[i].bool()])


def test_more_restarts_are_never_worse_and_batches_do_not_matter():
    pair, x = make("gaussian_vae").double(), torch.rand(5, 8, dtype=torch.float64)
    energies = [pv.complete(pair, x, MASK, restarts=r).energy for r in (1, 2, 5)]
    assert (energies[1] <= energies[0] + 1e-9).all() and (energies[2] <= energies[1] + 1e-9).all()
    parts = pv.complete(pair, x, MASK, restarts=1, batch_size=2)
    torch.testing.assert_close(parts.energy, energies[0])
    assert parts.trace.shape[1] == 5 and (parts.trace.diff(dim=0) <= 0).all()


def test_descent_keeps_the_data_apart_and_stops_where_nothing_is_finite():
    """Rosenbrock's valley beside a bowl and a datum without any energy."""

    def energy(z):
        valley = (1 - z[:, 0]) ** 2 + 100 * (z[:, 1] - z[:, 0] ** 2) ** 2
        bowl = z.square().sum(-1) + 3
        return torch.stack([valley[0], bowl[1], bowl[2] * torch.nan])

    start = torch.tensor([[-1.2, 1.0], [4.0, -3.0], [1.0, 1.0]], dtype=torch.float64)
    found = descend(energy, start, 200)
    torch.testing.assert_close(found.z[0], torch.ones(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.trace[-1, :2], torch.tensor([0.0, 3.0]).double(), atol=1e-8, rtol=0)
    assert (found.trace[:, :2].diff(dim=0) <= 0).all() and torch.equal(found.z[2], start[2])


class Brightness(nn.Module):
    """A judge that takes bright images for real."""

    def __init__(self, batchwise=False):
        super().__init__()
        self.weight, self.batchwise = nn.Parameter(torch.tensor(3.0)), batchwise

    def forward(self, x):
        bright = x.mean(-1, keepdim=True)
        return self.weight * (bright - bright.mean() if self.batchwise and len(x) > 1 else bright)


def test_the_judge_pulls_gen_z_towards_what_it_takes_for_real():
    pair, x = make("gaussian_vae"), torch.rand(3, 8)
    judge = Brightness().train()
    plain, pulled = (pv.complete(pair, x, MASK, gamma=0.1, tau=t, discriminator=judge) for t in (0.0, 1.0))
    assert (pulled.mean.mean(1) > plain.mean.mean(1)).all()
    assert judge.training and judge.weight.grad is None
    value = pulled.energy - pv.complete(pair, x, MASK, gamma=0.1, steps=0).energy
    assert value.isfinite().all()
    # One that compares the rows of a batch would make the energies depend on each other.
    assert (pv.complete(pair, x, MASK, tau=1.0, discriminator=Brightness(True)).trace.diff(dim=0) <= 0).all()
    pair.objective.discriminator = judge
    own = pv.complete(pair, x, MASK, gamma=0.1, tau=1.0)
    torch.testing.assert_close(own.mean, pulled.mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(8)}, "the mask hides nothing"),
        ({"mask": torch.zeros(8)}, "hides all of row 0"),
        ({"mask": MASK.repeat(4, 1) * torch.tensor([[1.0], [1], [0], [1]])}, "hides all of row 2"),
        ({"mask": MASK * 0.5}, "other values than 0"),
        ({"mask": MASK[:7]}, r"mask has shape \(7,\): it must be \(8,\) or \(4, 8\)"),
        ({"mask": "right"}, "mask is 'right'"),
        ({"x": torch.full((4, 8), torch.nan)}, "x is nan at row 0, column 0"),
        ({"x": torch.full((4, 8), 3.0)}, "x is 3 at row 0, column 0"),
        ({"x": torch.rand(4, 7)}, "x is \\(4, 7\\)"),
        ({"x": torch.rand(8)}, "x is "),
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"gamma": -1.0}, "gamma is -1"),
        ({"gamma": 1.0, "method": "nuts"}, "gamma and tau are of method 'optimise'"),
        ({"tau": 1.0}, "has no discriminator"),
        ({"tau": 1.0, "discriminator": nn.Linear(3, 1)}, "cannot judge data of 8 entries"),
        ({"tau": 1.0, "discriminator": nn.Linear(8, 2)}, "one logit each"),
        ({"restarts": 0}, "restarts is 0"),
        ({"prior_share": 2.0}, "prior_share is 2"),
        ({"samples": 1}, "samples is 1"),
        ({"noise": True}, "noise is of posterior draws"),
        ({"fill": torch.zeros(3)}, "fill is"),
        ({"seed": -1}, "seed is -1"),
        ({"x": torch.rand(65, 8), "method": "nuts"}, "65 data"),
        ({"y": torch.zeros(4)}, "takes no condition"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message):
    arguments = {"x": torch.rand(4, 8), "mask": MASK, **change}
    with pytest.raises(pv.InputError, match=message) as error:
        pv.complete(make("gaussian_vae"), **arguments)
    assert "\n" not in str(error.value)


def test_a_code_judge_is_no_image_judge_and_a_planar_flow_scores_its_own_draws_only(monkeypatch):
    with pytest.raises(pv.InputError, match="cannot judge"):
        pv.complete(make("wae_gan"), batch("wae_gan", 2), MASK, tau=1.0)
    pair, x = make("planar_vae"), batch("planar_vae", 2)
    assert pv.complete(pair, x, MASK, method="importance", samples=30).shares == pytest.approx(
        {"prior": 8 / 30, "mode": 22 / 30}
    )
    monkeypatch.setattr("pyro_vaes.inference.completion.local.MOST", 2)
    assert pv.complete(pair, x, MASK, method="importance", samples=30).shares == {"guide": 1}
    with pytest.raises(pv.InputError, match="own draws only"):
        pv.complete(pair, x, MASK, method="importance", prior_share=0.5)

"""Flow guides: densities against quadrature and Jacobians, layers at the identity, and what a richer q buys."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.guides.flows import AmortisedFlow, Flow, inverse_autoregressive, planar, spline
from pyro_vaes.inference.posterior import active_units, bound
from pyro_vaes.nn.flows import ContextEncoder
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.plates import data_plate

F64 = torch.float64
C = 3  # entries of the context
LAYERS = {
    "planar": planar,
    "autoregressive": lambda *sizes: inverse_autoregressive(*sizes, width=24),
    "spline": lambda *sizes: spline(*sizes, width=24),
}
VARIANT = {"planar": "planar_vae", "autoregressive": "iaf_vae", "spline": "spline_vae"}
INVERTIBLE = ["autoregressive", "spline"]


def layers_of(name, k=2, flows=2, noise=0.3, seed=0):
    """Layers far from the identity, in double precision."""
    torch.manual_seed(seed)
    layers = torch.nn.ModuleList(LAYERS[name](k, C, flows)).double()
    with torch.no_grad():
        for p in layers.parameters():
            p += noise * torch.randn_like(p)
    return layers


def transforms_of(name, h=None, **options):
    h = torch.linspace(-1, 1, C, dtype=F64) if h is None else h
    with torch.no_grad():
        return [layer.condition(h) for layer in layers_of(name, **options)]


def flow_of(name, batch=(), k=2, **options):
    base = dist.Normal(torch.full((*batch, k), 0.25, dtype=F64), 0.75).to_event(1)
    return Flow(base, transforms_of(name, k=k, **options))


def through(transforms, z):
    for transform in transforms:
        z = transform(z)
    return z


def make(name, seed=0, **arguments):
    torch.manual_seed(seed)
    return pv.variant(name)(data_dim=8, latent_dim=3, hidden=(6, 5), **arguments)


def binary(rows=10):
    return (torch.rand(rows, 8, generator=torch.Generator().manual_seed(2)) > 0.5).float()


# --- densities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVERTIBLE)
def test_density_integrates_to_one(name):
    flow = flow_of(name, noise=0.15)
    axis = torch.linspace(-8, 8, 321, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(grid).exp()
        assert (flow.mean - 0.25).abs().max() > 0.1, "far from the identity"
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_draws_have_the_density_that_they_are_scored_with(name):
    """E_q[g / q] = 1 for any density g: of planar layers too, which score nothing but their draws."""
    flow = flow_of(name, batch=(100_000,))
    with torch.no_grad():
        z = flow.rsample()
        g = dist.Normal(z.mean(0), 0.5 * z.std(0)).to_event(1)
        ratio = (g.log_prob(z) - flow.log_prob(z)).exp()
    assert ratio.mean() == pytest.approx(1.0, abs=(5 * ratio.std() / len(z) ** 0.5).item())
    assert ratio.std() / len(z) ** 0.5 < 0.02


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_that_of_the_jacobian(name):
    transforms, base = transforms_of(name, k=3), dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1)
    for z in torch.randn(5, 3, dtype=F64):
        flow = Flow(base, transforms)
        jacobian = torch.autograd.functional.jacobian(lambda a: through(transforms, a), z)
        value = through(transforms, z)
        expected = base.log_prob(z) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(flow.log_prob(value), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_an_entry_follows_from_itself_and_those_before(name):
    """The first layer runs through the entries forwards, the second backwards."""
    first, second = transforms_of(name, k=4)
    for transform, allowed in ((first, torch.ones(4, 4).tril()), (second, torch.ones(4, 4).triu())):
        at = torch.randn(20, 4, dtype=F64)
        depends = torch.stack([torch.autograd.functional.jacobian(transform, z) != 0 for z in at]).any(0)
        assert torch.equal(depends, allowed.bool())


@pytest.mark.parametrize("name", INVERTIBLE)
def test_a_value_that_is_given_has_the_density_of_the_same_value_drawn(name):
    drawn, given = flow_of(name, batch=(50,), k=3), flow_of(name, batch=(50,), k=3)
    z = drawn.rsample().detach()
    torch.testing.assert_close(given.log_prob(z.clone()), drawn.log_prob(z), rtol=1e-7, atol=1e-7)
    x = z
    for transform in reversed(transforms_of(name, k=3)):
        x = transform.inv(x)
    torch.testing.assert_close(through(transforms_of(name, k=3), x), z, rtol=1e-7, atol=1e-7)


def test_a_planar_flow_says_that_it_cannot_score_what_is_given():
    flow = flow_of("planar", batch=(4,))
    z = flow.rsample()
    with pytest.raises(pv.InputError, match="planar flow has no inverse"):
        flow.log_prob(z.clone())


@pytest.mark.parametrize("name", LAYERS)
def test_asking_for_the_centre_does_not_spoil_the_score_of_a_draw(name):
    flow, other = flow_of(name, batch=(4,)), flow_of(name, batch=(4,))
    torch.manual_seed(1)
    z = flow.rsample()
    centre = flow.mean
    torch.manual_seed(1)
    torch.testing.assert_close(flow.log_prob(z), other.log_prob(other.rsample()), rtol=0, atol=0)
    expected = through(transforms_of(name), torch.full((4, 2), 0.25, dtype=F64))
    torch.testing.assert_close(centre, expected)


def test_the_spline_is_zuko_s_own_flow():
    """As zuko has it, through Pyro's wrapper: the same layers, the same density."""
    from pyro.contrib.zuko import ZukoToPyro
    from zuko.distributions import NormalizingFlow
    from zuko.transforms import ComposedTransform

    flow = flow_of("spline", batch=(20,), k=3)
    z = flow.rsample().detach()
    inner = ComposedTransform(*(t.transform for t in flow.transforms))
    theirs = ZukoToPyro(NormalizingFlow(inner.inv, flow.base_dist))
    torch.testing.assert_close(flow.log_prob(z), theirs.log_prob(z), rtol=1e-7, atol=1e-7)


# --- the guide --------------------------------------------------------------------------------------------------


def still(pair):
    """Put every layer at the identity."""
    with torch.no_grad():
        for layer in pair.guide.layers:
            if pair.name == "planar_vae":
                for p in layer.nn.linear.parameters():
                    p[1:4] = 0.0
            else:
                last = layer.nn.layers[-1] if pair.name == "iaf_vae" else layer.lazy.hyper[-1]
                for p in last.parameters():
                    p.zero_()


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_with_layers_at_the_identity_it_is_the_vae(name):
    pair, vae = make(name).double(), make("vae").double()
    vae.load_state_dict(pair.state_dict(), strict=False)
    still(pair)
    losses = []
    for one, objective in ((pair, pv.ELBO()), (vae, pv.ELBO(sampled=["z"]))):
        torch.manual_seed(1)
        losses.append(objective(one.model, one.guide, binary().double()))
    for term in ("x", "z"):
        torch.testing.assert_close(losses[0].terms[term], losses[1].terms[term], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_it_starts_close_to_the_vae(name):
    pair, vae = make(name), make("vae")
    vae.load_state_dict(pair.state_dict(), strict=False)
    draws = []
    for one in (pair, vae):
        torch.manual_seed(1)
        draws.append(one.guide(binary()))
    assert 0 < (draws[0] - draws[1]).abs().max() < 0.1


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_a_datum_s_q_depends_on_its_own_x_only(name):
    pair, x = make(name), binary().requires_grad_()
    site = poutine.trace(pair.guide).get_trace(x).nodes["z"]
    for value in (site["fn"].log_prob(site["value"])[3], site["value"][3].sum(), site["fn"].mean[3].sum()):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert (gradient != 0).any(1).tolist() == [i == 3 for i in range(10)]


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_particles_run_along_a_dimension_of_their_own(name):
    pair, x = make(name), binary()
    with pyro.plate("particles", 7, dim=-2):
        q = poutine.trace(pair.guide).get_trace(x)
    p = poutine.trace(poutine.replay(poutine.lift(pair.model, prior={}), trace=q))
    site = q.nodes["z"]
    assert p is not None and site["value"].shape == (7, 10, 3)
    assert site["fn"].log_prob(site["value"]).shape == (7, 10)
    assert site["fn"].mean.shape == (7, 10, 3)
    assert site["value"].std(0).min() > 0


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_cleaning_takes_the_image_of_the_mean(name):
    pair, x = make(name), binary()
    with torch.no_grad():
        loc, _, h = pair.guide.encoder(x)
        code = through([layer.condition(h) for layer in pair.guide.layers], loc)
        expected = pair.model.decoder(code).sigmoid()
    torch.testing.assert_close(pv.clean(pair, x, draws=2).mean, expected)
    assert 0 <= active_units(pair, x) <= 3


@pytest.mark.parametrize("name", VARIANT.values(), ids=VARIANT)
def test_describe_calls_a_flow_a_flow(name):
    assert "z    | Normal    | Flow" in make(name).describe()


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("planar_vae", {"flows": 0}, "flows is 0"),
        ("iaf_vae", {"flows": 1.5}, "flows is 1.5"),
        ("iaf_vae", {"width": 2}, "width is 2: it must be a whole number of at least 3"),
        ("spline_vae", {"bins": 1}, "bins is 1"),
        ("spline_vae", {"width": 0}, "width is 0"),
    ],
)
def test_bad_arguments_are_refused(name, arguments, message):
    with pytest.raises(pv.InputError, match=message):
        make(name, **arguments)


def test_one_entry_has_none_before_it():
    with pytest.raises(pv.InputError, match="at least 2"):
        pv.iaf_vae(data_dim=4, latent_dim=1)
    assert pv.planar_vae(data_dim=4, latent_dim=1).traces()


def test_a_spline_of_one_entry_knows_x_alone():
    pair = pv.spline_vae(data_dim=4, latent_dim=1, hidden=(5,))
    assert torch.isfinite(pair(torch.ones(3, 4)).total)


def test_without_zuko_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(pv.InputError, match=r"pip install 'pyro-vaes\[flows\]'"):
        pv.spline_vae(data_dim=4)


def test_splines_leave_validation_on_and_are_not_imported_before_they_are_used():
    code = "import sys, torch, pyro_vaes as pv; pv.fit; pv.iaf_vae(4); assert 'zuko' not in sys.modules\n"
    code += "pv.spline_vae(4); assert torch.distributions.Distribution._validate_args is True"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# --- what it buys -----------------------------------------------------------------------------------------------


class Banana(PyroModule):
    """p(z) p(x | z) = N(z; 0, I) N(x; z_2 - z_1^2, 0.3^2): the posterior bends along a parabola."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(2))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z[..., 1:] - z[..., :1] ** 2, 0.3).to_event(1), obs=x)


def evidence(x):
    axis = torch.linspace(-7, 7, 1401, dtype=F64)
    prior = dist.Normal(torch.zeros((), dtype=F64), 1.0)
    # z_2 is integrated out in closed form: x given z_1 is N(-z_1^2, 1 + 0.3^2).
    joint = prior.log_prob(axis) + dist.Normal(-(axis**2), 1.09**0.5).log_prob(x.double())
    return joint.exp().sum(-1).mul(axis[1] - axis[0]).log()


def trained_bound(guide):
    x = torch.linspace(-3, 1, 5)[:, None].repeat(20, 1)
    pair = pv.Pair(Banana(), guide)
    torch.manual_seed(1)
    pv.fit(pair, x, steps=300, batch_size=100, lr=1e-2, progress=False, engine="graph")
    assert pair.data_dim == 1
    return bound(pair, x.repeat(100, 1)), evidence(x).mean().item()


@pytest.mark.parametrize(
    "name", ["planar", *(pytest.param(name, marks=pytest.mark.slow) for name in ("autoregressive", "spline"))]
)
def test_it_comes_closer_to_a_bent_posterior_than_a_gaussian_does(name):
    torch.manual_seed(0)
    gauss, exact = trained_bound(AmortisedNormal(GaussianEncoder(1, (16,), 2, torch.nn.Tanh)))
    found, _ = trained_bound(AmortisedFlow(ContextEncoder(1, (16,), 2, torch.nn.Tanh), LAYERS[name](2, 16, 4)))
    assert gauss + 0.1 < found < exact + 0.02, (gauss, found, exact)

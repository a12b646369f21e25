"""Models by themselves: every network of every model is moved by the density, at draws that no guide has made."""

import pytest
import torch
from small import BINARY, sizes

import pyro_vaes as pv
from pyro_vaes.inference.objective import sampled_sites, trace_of


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

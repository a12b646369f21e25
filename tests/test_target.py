"""The posterior that audits look at: the same numbers as the objectives', for every variant."""

import pytest
import torch
from test_contract import SMALL, batch, condition, make

import pyro_vaes as pv
from pyro_vaes.analysis.target import look, target
from pyro_vaes.errors import InputError
from pyro_vaes.inference.densities import quietly


@pytest.mark.parametrize("name", SMALL)
def test_draws_weigh_what_states_weigh(name):
    """Once from the guide's own trace, once from a state on the real line that knows nothing of it."""
    pair, x, y = make(name), batch(name, 4), condition(name, 4)
    with quietly(pair):
        found = target(pair, x, y)
        drawn = found.draw(5, (0,))
        assert drawn.log_weights.shape == (5, 4)
        assert drawn.mean.shape == drawn.scale.shape == (5, 4, 8)
        assert drawn.log_weights.isfinite().all()
        if found.sites.discrete:
            assert set(found.sites.discrete) == {"y_unobserved"}
            return
        state = found.line.state(drawn.values)
        torch.testing.assert_close(found.log_joint(state), drawn.prior + drawn.data, rtol=1e-4, atol=1e-4)
        assert found.start().shape == (1, 4, found.line.size)
        if name != "planar_vae":  # its flow knows the density of its own draws only
            torch.testing.assert_close(found.log_guide(state), drawn.guide, rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_likelihood_estimator():
    """A second path to log w: the estimator of log p(x) draws and weighs by itself."""
    from pyro_vaes.inference.likelihood import importance_weights

    pair, x = make("vae"), batch("vae", 4)
    with quietly(pair):
        found = target(pair, x).draw(6, (3, 0))
        again = importance_weights(pair, x, None, 6, 6, (3,))
    torch.testing.assert_close(found.log_weights, again)


def test_the_gradient_of_an_outlier_model_is_that_of_its_kernel():
    """iC-VAE: log p(z) - sum log sqrt((x - mu)^2 + eps^2) + constants, with the outlier where the guide puts it."""
    pair, x = make("ic_vae"), batch("ic_vae", 2)
    with quietly(pair):
        found = target(pair, x)
        state = found.draw(3, (0,)).values["z"]
        with torch.enable_grad():
            z = state.clone().requires_grad_()
            (ours,) = torch.autograd.grad(found.log_joint(z).sum(), z)
            mu, floor = pair.model.decoder(z), pair.model.floor(z)
            theirs = -0.5 * z.square().sum() - 0.5 * torch.log((x - mu).square() + floor.square()).sum()
            (expected,) = torch.autograd.grad(theirs, z)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_discrete_code_is_refused_where_gradients_are_needed():
    pair = make("m2_vae")
    with pytest.raises(InputError, match="'y_unobserved' of m2_vae is discrete"):
        target(pair, batch("m2_vae", 4), condition("m2_vae", 4), continuous=True)


def test_what_has_no_code_is_refused():
    pair = make("vae")
    with pytest.raises(InputError, match="x has 9 entries"):
        target(pair, torch.rand(3, 9))
    assert look(pv.autoencoder(4, 2, (5,)), torch.rand(3, 4)).point_mass

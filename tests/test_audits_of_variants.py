"""Every variant goes through every audit, or is refused in a line that says why."""

import pytest
import torch
from test_contract import SMALL, batch, condition, make

from pyro_vaes.analysis.outlier_posterior import outlier_posterior
from pyro_vaes.analysis.predictive import predictive_check
from pyro_vaes.analysis.sbc import sbc
from pyro_vaes.analysis.sensitivity import power_scaling
from pyro_vaes.errors import InputError

torch.set_num_threads(1)
POINTS = {"autoencoder", "wae_mmd", "wae_gan", "induced_ae", "ae_classifier"}
FACTORS = {"indexed_ic_vae", "ric_vae", "induced_ae"}


def refused(audit, *arguments, **more):
    try:
        return None, audit(*arguments, **more)
    except InputError as error:
        return str(error), None


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_variant_is_audited_or_refused(name):
    pair, x, y = make(name), batch(name, 6), condition(name, 6)
    said, found = refused(sbc, pair, y, simulations=24, draws=19)
    assert (said is None) == (name not in POINTS | FACTORS), said
    assert found is None or (found.p.isfinite().all() and str(found.finding()) and str(found.symmetry().finding()))
    said, found = refused(power_scaling, pair, x, y, draws=60)
    assert (said is None) == (name not in POINTS), said
    assert found is None or (found.prior.distance.isfinite().all() and str(found.finding()))
    for kind in ("posterior", "prior"):
        said, found = refused(predictive_check, pair, x, y, draws=20, kind=kind, shape=(2, 4))
        assert (said is None) == (name not in FACTORS), said
        assert found is None or (found.set_p.isfinite().all() and str(found.finding()))
    said, found = refused(outlier_posterior, pair, x, y, draws=30)
    if said is not None:
        assert "0 or 1" in said or name in POINTS
    else:
        assert all(m.isfinite().all() for m in (*found.guide, *found.weighted)) and str(found.finding())

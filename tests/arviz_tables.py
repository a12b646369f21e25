"""Run by whichever Python has an ArviZ, without pyro-vaes: the tables of a posterior, as JSON.

python arviz_tables.py POSTERIOR, a netCDF file, or a folder with a netCDF-3 file for each group, for a Python without
HDF5.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import arviz as az  # noqa: E402
import numpy as np  # noqa: E402


def opened(path):
    """The documented way for a file; group by group for a folder."""
    if path.is_file():
        return az.from_netcdf(str(path))
    import xarray as xr

    return xr.DataTree.from_dict({f.stem: xr.load_dataset(f, engine="scipy") for f in sorted(path.glob("*.nc"))})


def tables(path):
    old = int(az.__version__.split(".")[0]) < 1
    posterior = opened(Path(path))
    summary = az.summary(posterior, var_names=["z"], coords={"datum": [0]}, kind="stats", round_to="none")
    loo = az.loo(posterior, var_name="x", reff=1.0, pointwise=True)
    log_w = np.asarray(posterior["sample_stats"]["log_weight"])[0].T
    if old:
        khat = az.psislw(log_w)[1]
    else:
        from arviz_stats.base import array_stats

        khat = array_stats.psislw(-log_w)[1]
    return {
        "version": az.__version__, "entries": list(summary.index),
        "mean": summary["mean"].astype(float).tolist(), "sd": summary["sd"].astype(float).tolist(),
        "elpd": float(loo.elpd_loo if old else loo.elpd), "p": float(loo.p_loo if old else loo.p),
        "elpd_i": np.asarray(loo.loo_i if old else loo.elpd_i).ravel().tolist(),
        "pareto_k": np.asarray(loo.pareto_k).ravel().tolist(),
        "khat": np.asarray(khat).ravel().tolist(), "stored khat": posterior["sample_stats"]["khat"].values.tolist(),
        "elpd of a datum": posterior["sample_stats"]["elpd"].values.tolist(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(tables(sys.argv[1])))

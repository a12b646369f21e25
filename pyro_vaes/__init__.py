"""Variational autoencoders as explicit Pyro model/guide pairs, and clean data out of dirty data without labels.

>>> import pyro_vaes as pv
>>> pair = pv.t_vae(data_dim=64, latent_dim=4, hidden=(32,))
>>> history = pv.fit(pair, pv.load("digits", limit=200).x, steps=5, progress=False)
>>> pv.clean(pair, pv.load("digits", limit=3).x).mean.shape
torch.Size([3, 64])
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use, so that `pyro-vaes --help` does not wait for torch.
_HOMES = {
    "pyro_vaes.pair": ["Pair"],
    "pyro_vaes.variants": [
        "VARIANTS", "variant", "vae", "beta_vae", "dvae", "iwae", "iwae_2", "ladder_vae", "skip_vae", "cnn_vae",
        "planar_vae", "iaf_vae", "spline_vae", "mixture_vae", "vamp_vae", "cvae", "structured_cvae", "gaussian_vae",
        "l2_vae", "gamma_vae", "lc_vae", "memoriser", "ic_vae", "indexed_ic_vae", "affine_ic_vae", "t_vae",
        "datum_t_vae", "rvae", "ric_vae", "r_l2_vae", "rlc_vae", "autoencoder", "induced_ae", "wae_mmd", "wae_gan",
        "two_stage_vae", "affine_vae", "ica_vae", "m2_vae", "conv_vae", "cvae_conv", "bcvae", "crvae",
        "vae_gan", "crvae_gan", "empirical_cvae", "ae_classifier", "vae_classifier", "crvae_classifier",
        "with_empirical_prior",
    ],
    "pyro_vaes.inference.objective": ["ELBO", "Loss", "Objective"],
    "pyro_vaes.inference.importance": ["ImportanceWeighted"],
    "pyro_vaes.inference.denoised": ["Denoised"],
    "pyro_vaes.inference.recycled": ["Recycled"],
    "pyro_vaes.inference.stock": ["Stock"],
    "pyro_vaes.inference.wae": ["WAE"], "pyro_vaes.inference.adversarial": ["players", "Players"],
    "pyro_vaes.inference.mmd": ["mmd"], "pyro_vaes.nn.mlp": ["Discriminator"],
    "pyro_vaes.inference.enumerated": ["Enumerated"], "pyro_vaes.inference.classify": ["classify"],
    "pyro_vaes.inference.classifier_gan": ["ClassifierGAN"], "pyro_vaes.nn.two_heads": ["TwoHeads"],
    "pyro_vaes.data.labels": ["few_labels"],
    "pyro_vaes.inference.fit": ["fit"],
    "pyro_vaes.inference.stagewise": ["Stagewise"],
    "pyro_vaes.inference.stages": ["fit_stages"],
    "pyro_vaes.inference.empirical": ["EmpiricalPrior", "fit_prior"],
    "pyro_vaes.inference.plan": ["Plan", "History"],
    "pyro_vaes.inference.compile": ["Engine", "EngineWarning", "describe"],
    "pyro_vaes.inference.schedules": ["Linear", "settings"],
    "pyro_vaes.inference.state": ["warm_start"],
    "pyro_vaes.inference.guard": ["Diverged"],
    "pyro_vaes.inference.ranks": ["RankLost"], "pyro_vaes.meeting": ["average", "everyone"],
    "pyro_vaes.inference.trackers": ["Tracker", "Stopped", "TensorBoard", "WandB", "MLflow"],
    "pyro_vaes.inference.posterior": ["bound", "clean", "sample", "reconstruct", "Cleaned"],
    "pyro_vaes.inference.complete": ["complete", "Completed"],
    "pyro_vaes.inference.condition": ["condition", "Conditioned"],
    "pyro_vaes.inference.impute": ["impute", "Imputed"], "pyro_vaes.inference.masked": ["Masked"],
    "pyro_vaes.inference.likelihood": ["log_likelihood", "LogLikelihood"],
    "pyro_vaes.inference.annealed": ["Annealing"],
    "pyro_vaes.inference.sandwich": ["sandwich", "Sandwich"],
    "pyro_vaes.inference.outliers": ["outlier_probability"],
    "pyro_vaes.evaluation.detection": ["detect", "Detected"],
    "pyro_vaes.evaluation.generation": ["Judge", "frechet_distance"], "pyro_vaes.evaluation.prdc": ["prdc"],
    "pyro_vaes.inference.run": ["Run"], "pyro_vaes.inference.sweep": ["sweep", "Swept"],
    "pyro_vaes.evaluation.decomposition": ["decompose", "Decomposition"],
    "pyro_vaes.evaluation.aggregated": ["aggregated", "Aggregated", "traversal"],
    "pyro_vaes.evaluation.blocks": ["evolve", "interpolate_block", "resample_block", "interpolate"],
    "pyro_vaes.evaluation.block_effects": ["block_effects", "BlockEffects"],
    "pyro_vaes.data.quadrants": ["quadrants"],
    "pyro_vaes.data.shards": ["Shards"],
    "pyro_vaes.data": ["load", "binarised", "corrupt", "Dataset", "Corrupted"],
    "pyro_vaes.errors": ["InputError", "FaultWarning"],
    "pyro_vaes.analysis.sbc": ["sbc", "vsbc"],
    "pyro_vaes.analysis.predictive": ["predictive_check"],
    "pyro_vaes.analysis.sensitivity": ["power_scaling"],
    "pyro_vaes.analysis.outlier_posterior": ["outlier_posterior"],
    "pyro_vaes.analysis.outlier_judge": ["judge_outliers", "planted_outliers"],
    "pyro_vaes.analysis.psis": ["psis", "reweighted", "Smoothed", "Reweighted"],
    "pyro_vaes.analysis.nuts": ["nuts", "Chains"], "pyro_vaes.analysis.gaps": ["gaps", "Gaps"],
    "pyro_vaes.analysis.compare": ["compare", "Compared"],
    "pyro_vaes.analysis.tree": ["to_datatree", "to_arviz"], "pyro_vaes.analysis.loo": ["loo", "LOO"],
    "pyro_vaes.analysis.netcdf": ["write_posterior", "open_posterior"],
    "pyro_vaes.analysis.check": ["check", "Checked", "Budget"],
    "pyro_vaes.inference.vae_gan": ["VAEGAN"], "pyro_vaes.nn.discriminator": ["ImageDiscriminator"],
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pyro_vaes' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

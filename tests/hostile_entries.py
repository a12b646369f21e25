# ruff: noqa: E501 (one line per function is easier to read as a table)
"""Every public function with good arguments, small enough that one call takes a moment."""

import torch
from hostile import Entry
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vaes as pv
from pyro_vaes.analysis.outlier_posterior import outlier_posterior
from pyro_vaes.data import corrupt_cells, corruption
from pyro_vaes.data.hidden import hiding

N, D = 6, 4
# What takes seconds, and so stands in the slow part.
SLOW = {
    "complete", "complete nuts", "complete importance", "impute", "sandwich", "nuts", "compare", "gaps", "check", "sbc",
    "vsbc", "fit_stages", "with_empirical_prior", "interpolate_block", "resample_block", "block_effects", "loo",
    "planted_outliers", "to_datatree", "power_scaling", "predictive_check", "Judge", "psis", "reweighted",
}  # fmt: skip


def grey() -> torch.Tensor:
    return torch.rand(N, D, generator=torch.Generator().manual_seed(5)).mul(0.8).add(0.1)


def binary() -> torch.Tensor:
    return (grey() > 0.5).float()


def labels() -> torch.Tensor:
    return torch.arange(N) % 3


def made(name: str, **arguments) -> pv.Pair:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return pv.variant(name)(**{"data_dim": D, "latent_dim": 2, "hidden": (4,)} | arguments).eval()


def blocks() -> pv.Pair:
    return made("crvae", latent_dim=2, blocks=2, shape=(2, 2), hidden=(2,), units=3, sd=0.1)


def with_x(call, variant="l2_vae", trains=False, draws_globally=False, **more) -> Entry:
    return Entry(
        call,
        lambda: {"pair": made(variant), "x": grey()} | {k: v() if callable(v) else v for k, v in more.items()},
        trains=trains,
    )


def with_y(call, **more) -> Entry:
    return Entry(call, lambda: {"pair": made("cvae", classes=3), "x": binary(), "y": labels()} | more)


def quietly(call):
    def run(**arguments):
        return call(**arguments, progress=False)

    return run


def seen() -> torch.Tensor:
    return torch.tensor([1.0, 0.0, 1.0, 1.0])


def dataset() -> pv.Dataset:
    return pv.Dataset("mine", grey(), (2, 2), labels())


def few() -> dict:
    return {"draws": 30, "batch_size": 4, "chunk": 20, "seed": 0}


FIT = {
    "steps": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "schedule": "cosine",
    "seed": 0,
    "optimiser": "adam",
    "betas": (0.9, 0.9),
    "engine": "eager",
    "checkpoint_every": 2,
    "log_every": 1,
    "device": "cpu",
    "augment": "impulse:0.1",
    "resume": False,
}

# For each public function good arguments; nothing costs more than a moment.
ENTRIES: dict[str, Entry] = {
    "fit": with_x(quietly(pv.fit), **FIT, trains=True),
    "fit conditional": Entry(quietly(pv.fit), lambda: {"pair": made("cvae", classes=3), "x": binary(), "y": labels(), "steps": 1}, trains=True),
    "fit m2": Entry(quietly(pv.fit), lambda: {"pair": made("m2_vae", condition_dim=3), "x": binary(), "y": labels() - 1, "steps": 1}, trains=True),
    "fit masked": Entry(quietly(pv.fit), lambda: {"pair": masked_pair(), "x": grey(), "steps": 1}, trains=True),
    "fit_stages": Entry(quietly(pv.fit_stages), lambda: {"pair": made("two_stage_vae", second_hidden=(3,)), "x": grey(), "steps": 1, "batch_size": 4}, trains=True),
    "fit_prior": Entry(pv.fit_prior, lambda: {"pair": made("empirical_cvae", hidden=(2,), shape=(2, 2)), "x": binary(), "draws": 1, "batch_size": 4, "seed": 0}, trains=True),
    "with_empirical_prior": with_x(pv.with_empirical_prior, channels=1, draws=1, batch_size=4, seed=0),
    "warm_start": Entry(pv.warm_start, lambda: {"pair": made("l2_vae"), "other": made("l2_vae")}, trains=True),
    "clean": with_x(pv.clean, "t_vae", passes=1, draws=2, threshold=2.0, batch_size=4, seed=0),
    "clean conditional": with_y(pv.clean),
    "reconstruct": with_x(pv.reconstruct, "t_vae", passes=1, draw=False, draws_globally=True),
    "bound": with_x(pv.bound, batch_size=4, seed=0),
    "sample": Entry(pv.sample, lambda: {"pair": made("l2_vae"), "draws": 3, "passes": 1, "noise": False, "seed": 0}),
    "sample conditional": Entry(pv.sample, lambda: {"pair": made("cvae", classes=3), "draws": 6, "y": labels()}),
    "complete": with_x(quietly(pv.complete), mask=seen, method="optimise", tau=0.0, steps=2, restarts=2, draws=2, batch_size=4, seed=0, fill=grey),
    "complete nuts": with_x(quietly(pv.complete), mask=seen, method="nuts", draws=2, chains=1, warmup=1, depth=1, chunk=2, seed=0),
    "complete importance": with_x(quietly(pv.complete), mask=seen, method="importance", draws=2, samples=30, prior_share=0.5, chunk=10, noise=False),
    "condition": with_x(pv.condition, mask=seen),
    "impute": with_x(quietly(pv.impute), mask=seen, method="importance", draws=2, samples=30, noise=True, prior_share=0.5, chunk=10, batch_size=4, seed=0, fill=grey),
    "log_likelihood": with_x(quietly(pv.log_likelihood), samples=30, method="is", chunk=10, batch_size=4, seed=0),
    "log_likelihood conditional": with_y(quietly(pv.log_likelihood), samples=30),
    "sandwich": Entry(pv.sandwich, lambda: {"pair": made("l2_vae"), "size": 2, "annealing": pv.Annealing(3, 2), "chains": 2, "samples": 30, "chunk": 2, "batch_size": 2, "seed": 0}),
    "outlier_probability": with_x(pv.outlier_probability, "rvae", draws=2, batch_size=4, seed=0),
    "detect": with_x(pv.detect, passes=1, batch_size=4, shape=(2, 2), neighbourhood=1),
    "decompose": with_x(pv.decompose, draws=1, chunk=4, batch_size=4, seed=0),
    "aggregated": with_x(pv.aggregated, site="z", draws=20, repeats=2, batch_size=4, seed=0),
    "traversal": with_x(pv.traversal, x=lambda: grey()[:1], dimension=0, span=(-1.0, 1.0), site="z"),
    "classify": Entry(pv.classify, lambda: {"pair": made("m2_vae", condition_dim=3), "x": binary(), "site": "y_unobserved", "batch_size": 4}),
    "evolve": Entry(pv.evolve, lambda: {"pair": blocks(), "draws": 2, "x": grey()[:2], "seed": 0}),
    "interpolate": Entry(pv.interpolate, lambda: {"pair": blocks(), "x": grey()[:4], "steps": 3, "seed": 0}),
    "interpolate_block": Entry(pv.interpolate_block, lambda: {"pair": blocks(), "block": 1, "steps": 3, "draws": 2, "path": "linear", "seed": 0}),
    "resample_block": Entry(pv.resample_block, lambda: {"pair": blocks(), "block": 1, "styles": 2, "draws": 2, "seed": 0}),
    "block_effects": Entry(pv.block_effects, lambda: {"pair": blocks(), "draws": 4, "shape": (2, 2), "seed": 0}),
    "psis": with_x(quietly(pv.psis), **few(), keep=False),
    "reweighted": with_x(quietly(pv.reweighted), f=lambda: lambda drawn: drawn.values["z"], **few()),
    "loo": with_x(quietly(pv.loo), **few(), left_out="datum"),
    "nuts": with_x(quietly(pv.nuts), chains=2, samples=8, warmup=2, depth=2, group=3, whiten="laplace", seed=0),
    "compare": with_x(quietly(pv.compare), draws=30, chains=2, samples=8, warmup=2, depth=2, group=3, family="diagonal", seed=0),
    "gaps": with_x(quietly(pv.gaps), draws=30, family="diagonal", particles=2, steps=2, batch_size=4, chunk=10, seed=0),
    "sbc": Entry(pv.sbc, lambda: {"pair": made("l2_vae"), "simulations": 20, "draws": 19, "batch_size": 10, "seed": 0}),
    "vsbc": Entry(pv.vsbc, lambda: {"pair": made("l2_vae"), "simulations": 20, "draws": 19, "batch_size": 10, "seed": 0}),
    "predictive_check": with_x(pv.predictive_check, kind="posterior", draws=20, shape=(2, 2), batch_size=4, seed=0),
    "power_scaling": with_x(pv.power_scaling, draws=30, step=0.01, batch_size=4, seed=0),
    "outlier_posterior": with_x(outlier_posterior, "t_vae", draws=30, threshold=2.0, level=0.9, batch_size=4, seed=0),
    "judge_outliers": Entry(pv.judge_outliers, lambda: {"found": outlier_posterior(made("t_vae"), grey(), draws=30), "mask": grey() > 0.5, "clean": grey()}),
    "planted_outliers": with_x(pv.planted_outliers, "t_vae", spec="impulse:0.3", shape=(2, 2), seed=0, draws=30),
    "to_datatree": with_x(quietly(pv.to_datatree), draws=4, replicates=2, shape=(2, 2), labels=labels, mask=lambda: grey() > 0.5, dirty=lambda: grey() > 0.5, seed=0, batch_size=4, chunk=2),
    "frechet_distance": Entry(pv.frechet_distance, lambda: {"a": grey(), "b": grey().flip(0)}),
    "prdc": Entry(pv.prdc, lambda: {"real": grey(), "fake": grey().flip(1), "k": 2, "block": 4}),
    "mmd": Entry(pv.mmd, lambda: {"a": grey(), "b": grey().flip(1), "kernel": "imq", "bandwidth": 0.5, "block": 4}, blind=True),
    "players": Entry(pv.players, lambda: {"discriminator": discriminator(), "real": grey(), "fake": grey().flip(1), "saturating": False}, blind=True),
    "corrupt": Entry(pv.corrupt, lambda: {"x": grey(), "spec": "impulse:0.5", "shape": (2, 2), "seed": 0}),
    "corrupt gaussian": Entry(pv.corrupt, lambda: {"x": grey(), "spec": "gaussian:0.5:0.5", "shape": (2, 2), "seed": 0}),
    "corrupt circles": Entry(pv.corrupt, lambda: {"x": grey(), "spec": "circles:0.5", "shape": (2, 2), "seed": 0}),
    "masked": Entry(corruption.masked, lambda: {"x": grey(), "mask": grey() > 0.5, "value": 0.5}),
    "corrupt_cells": Entry(corrupt_cells, lambda: {"x": grey(), "noise": "gaussian", "rows": 0.5, "cells": 0.5, "seed": 0}),
    "hiding": Entry(hiding, lambda: {"region": "right", "shape": (4, 4)}),
    "binarised": Entry(pv.binarised, lambda: {"dataset": dataset(), "kind": "static", "seed": 0, "root": "nowhere", "split": "train"}),
    "quadrants": Entry(pv.quadrants, lambda: {"dataset": dataset(), "observed": 1}),
    "few_labels": Entry(pv.few_labels, lambda: {"y": labels(), "count": 3, "seed": 0}),
    "load": Entry(pv.load, lambda: {"source": "digits", "root": "nowhere", "split": "train", "limit": 3, "download": False, "missing": False}),
    "variant": Entry(pv.variant, lambda: {"name": "vae"}),
    "Judge": Entry(pv.Judge, lambda: {"x": torch.rand(40, D, generator=torch.Generator().manual_seed(1)), "y": torch.arange(40) % 2, "held_out": torch.rand(20, D, generator=torch.Generator().manual_seed(2)), "shape": (2, 2), "hidden": (3,), "seed": 0, "neighbours": 2}),
    "check": with_x(pv.check, mask=lambda: grey() > 0.5, shape=(2, 2), budget=lambda: pv.Budget(4, 0, 30, 20, 20, 10), seed=0),
    "Pair": Entry(pv.Pair, lambda: {"model": made("l2_vae").model, "guide": made("l2_vae").guide, "passes": 1, "condition_dim": 0, "partial": False, "name": "mine", "range": (0.0, 1.0)}),
}  # fmt: skip


def masked_pair() -> pv.Pair:
    pair = made("l2_vae")
    pair.objective = pv.Masked(pv.ELBO(), 0.5)
    return pair


def discriminator() -> nn.Module:
    with torch.random.fork_rng():
        return pv.Discriminator(D, (3,))


OBJECTIVES: dict[str, Entry] = {
    "ELBO": Entry(pv.ELBO, lambda: {"beta": 1.0, "particles": 1, "free_bits": 0.5, "sampled": ("z",), "exact": ("w",)}),
    "ImportanceWeighted": Entry(pv.ImportanceWeighted, lambda: {"particles": 2, "alpha": 0.5, "estimator": "iwae", "exact": ("w",)}),
    "Denoised": Entry(pv.Denoised, lambda: {"objective": pv.ELBO(), "corruption": "impulse:0.5"}),
    "Recycled": Entry(pv.Recycled, lambda: {"objective": pv.ELBO(), "passes": 2, "recycle_grad": False, "clip": (0.0, 1.0), "mean": False}),
    "Masked": Entry(pv.Masked, lambda: {"objective": pv.ELBO(), "share": 0.5, "fill": 0.5}),
    "WAE": Entry(pv.WAE, lambda: {"penalty": "mmd", "weight": 5.0, "kernel": "imq", "bandwidth": 0.5, "rate": 0.5}),
    "Enumerated": Entry(pv.Enumerated, lambda: {"site": "y_unobserved", "classifier_weight": 0.5, "beta": 1.0, "particles": 1}),
    "Stagewise": Entry(pv.Stagewise, lambda: {"stage": 0, "beta": 1.0, "particles": 1}),
    "EmpiricalPrior": Entry(pv.EmpiricalPrior, lambda: {"beta": 1.0, "particles": 1, "free_bits": 0.5, "draws": 1}),
    "VAEGAN": Entry(pv.VAEGAN, lambda: {"beta": 1.0, "discriminator": discriminator(), "weight": 1.0, "fakes": "both", "threshold": 0.9, "saturating": False, "rate": 1.0}),
    "ClassifierGAN": Entry(pv.ClassifierGAN, lambda: {"objective": pv.ELBO(), "network": pv.TwoHeads((1, 2, 2), (3,), 2), "weight": 1.0, "classifier_weight": 1.0, "rate": 1.0}),
    "Stock": Entry(pv.Stock, lambda: {"estimator": Trace_ELBO()}),
    "TwoHeads": Entry(pv.TwoHeads, lambda: {"shape": (1, 2, 2), "filters": (3,), "classes": 2, "layers": 1}, draws=True),
    "Discriminator": Entry(pv.Discriminator, lambda: {"width": 3, "hidden": (3,)}, draws=True),
    "ImageDiscriminator": Entry(pv.ImageDiscriminator, lambda: {"shape": (1, 4, 4), "filters": (3,), "hidden": 5, "kernels": 2, "dropout": 0.5, "outputs": 1}, draws=True),
    "Annealing": Entry(pv.Annealing, lambda: {"temperatures": 3, "leapfrog": 2, "transitions": 1, "start": "prior", "schedule": "sigmoid"}),
    "Budget": Entry(pv.Budget, lambda: {"rows": 4, "nuts": 0, "draws": 30, "simulations": 20, "samples": 20, "warmup": 10, "hidden": 0.3}),
    "Linear": Entry(pv.Linear, lambda: {"start": 0.0, "end": 1.0, "steps": 3}),
    "Plan": Entry(pv.Plan, lambda: {"steps": 2, "batch_size": 4, "lr": 1e-3, "schedule": "cosine", "seed": 0, "optimiser": "adam", "betas": (0.9, 0.99)}),
}  # fmt: skip

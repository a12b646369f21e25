"""Hostile input to what is about generation, stages and few labels: refused in one line, or harmless."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.data.clip import clip
from pyro_vaes.data.labels import few_labels
from pyro_vaes.data.manifold import contaminated
from pyro_vaes.evaluation.aggregated import code_site, prior_draws, traversal
from pyro_vaes.evaluation.fid import inception_images
from pyro_vaes.evaluation.generation import Judge
from pyro_vaes.evaluation.identifiability import amari_distance, matched
from pyro_vaes.evaluation.normality import mmd_to, moments
from pyro_vaes.evaluation.prdc import reaches
from pyro_vaes.experiments.cells import Cells
from pyro_vaes.inference.adversarial import players
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.mmd import mmd
from pyro_vaes.inference.stages import fit_stages
from pyro_vaes.inference.stagewise import Stagewise
from pyro_vaes.inference.wae import WAE
from pyro_vaes.variants import VARIANTS


def says(call, message):
    with pytest.raises(pv.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("options", [{"filters": (3,)}, {"shape": (2, 2)}, {"distort": 1.0}])
def test_what_only_a_cnn_has_is_refused_of_an_mlp(options):
    says(lambda: pv.m2_vae(4, hidden=(3,), **options), "are of classifier 'cnn': 'mlp' has none")


@pytest.mark.parametrize("filters", [0, "ab", [0], [1.5], [True], [10**12]])
def test_filters_are_a_list_of_whole_numbers(filters):
    says(lambda: pv.m2_vae(4, hidden=(3,), classifier="cnn", filters=filters), "filters")


def test_sets_that_have_no_discrepancy_are_refused():
    a = torch.ones(3, 2)
    for b in (a.double(), a.numpy(), a[:, :0], None):
        says(lambda b=b: mmd(a, b), "must be")
    says(lambda: mmd(a.long(), a.long()), "floating point")
    says(lambda: mmd(a[:, :0], a[:, :0]), "must be .n, k.")
    says(lambda: mmd(a, a, bandwidth=torch.ones(3)), "bandwidth has shape .3,.")


class Says(nn.Module):
    """A discriminator that answers with anything."""

    def __init__(self, answer):
        super().__init__()
        self.linear, self.answer = nn.Linear(2, 1), answer

    def forward(self, z):
        return self.answer(self.linear(z))


def test_a_discriminator_gives_a_tensor_of_logits():
    a = torch.ones(3, 2)
    says(lambda: players(lambda z: z, a, a), "a function: it must be a module")
    for answer, kind in ((lambda v: None, "NoneType"), (lambda v: (v,), "tuple")):
        says(lambda answer=answer: players(Says(answer), a, a), kind)
        pair = pv.l2_vae(4, 2, (3,))
        pair.objective = WAE("gan", discriminator=Says(answer))
        says(lambda pair=pair: pv.fit(pair, torch.rand(6, 4), steps=1, progress=False), kind)


@pytest.mark.parametrize("name", ["l2_vae", "ic_vae", "t_vae", "affine_ic_vae"])
def test_stages_need_a_code_below_another(name):
    pair = VARIANTS[name](data_dim=4, latent_dim=2, hidden=(3,))
    pair.objective = Stagewise()
    says(lambda: pair(torch.rand(3, 4)), "Stagewise needs .*sites above")


class Odd(nn.Module):
    def __init__(self, stages):
        super().__init__()
        self.stages = stages


def test_stages_are_whole_numbers_and_folders_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair, x, plan = pv.two_stage_vae(4, 2, (3,), (3,)), torch.rand(6, 4), {"steps": 1, "progress": False}
    says(lambda: fit_stages(pair, x, out="", **plan), "out has no name")
    for stage in (1.0, torch.tensor(1), True, None):
        says(lambda stage=stage: Stagewise(stage), "stage is")
    for stages in (5, "ab", (1, 1), (0, 1), (1.5,), (1, 2)):
        pair.objective = Odd(stages)
        says(lambda: fit_stages(pair, x, **plan), "stages of two_stage_vae are")
    assert not list(tmp_path.iterdir())


def test_codes_are_asked_for_by_name_and_moved_by_numbers():
    pair, x = pv.l2_vae(4, 2, (3,)), torch.rand(1, 4)
    for site in (0, True, "q", ""):
        says(lambda site=site: code_site(pair, x, site=site), "unknown site")
    for span in (None, "ab", ["a"], [1j], [float("nan")], [float("inf")], 0.0, []):
        says(lambda span=span: traversal(pair, x, 0, span), "span is")
    says(lambda: traversal(pair, None, 0, [0.0]), "x is NoneType")
    says(lambda: prior_draws(None, "z", 3), "a Pair is needed")
    says(lambda: prior_draws(pair, "z", 3, seed=-1), "seed is -1")


def test_a_weight_too_large_is_not_blamed_on_the_engine():
    pair = pv.wae_mmd(4, 2, (3,), weight=1e38)
    with pytest.raises(pv.Diverged, match="step 0: loss and gradients are finite, but too large"):
        pv.fit(pair, torch.rand(6, 4), steps=2, engine="eager", progress=False)


def test_labels_of_a_strange_kind_are_refused():
    pair = pv.m2_vae(4, condition_dim=3, latent_dim=2, hidden=(3,))
    says(lambda: check_condition(pair, torch.ones(3, 4), torch.eye(3).to_sparse()), "y is sparse")
    says(lambda: few_labels(torch.tensor([1j, 0j]), 2), "whole labels")


def test_measures_refuse_what_is_no_matrix_of_real_numbers():
    z = torch.ones(5, 2) + torch.eye(5, 2)
    for other in (z.numpy(), None, z + 0j, z[:, 0]):
        for measure in (amari_distance, matched):
            says(lambda measure=measure, other=other: measure(z, other), "must be finite")
    says(lambda: matched(z, z[:, :0]), "must be finite")
    says(lambda: moments(z + 0j), "real numbers")
    for seed in (True, 1.5, "a", None):
        says(lambda seed=seed: mmd_to(z, seed=seed), "seed is")
    for k in (0, 5, True, 1.5):
        says(lambda k=k: reaches(z, k), "k is|neighbours take more")
    for shape in ("ab", None, 3, (-1, -4), (1.5, 2)):
        says(lambda shape=shape: inception_images(torch.rand(2, 4), shape), "must be|not that of")


def test_data_that_cannot_be_made_are_refused():
    g = torch.Generator()
    says(lambda: contaminated(1, 1, 1, 0.0, generator=g), "single entry")
    says(lambda: contaminated(4, 2, 1, 0.0, generator=3), "must be a torch.Generator")
    says(lambda: clip(generator=None), "must be a torch.Generator")


def images(rows, seed=0):
    return torch.rand(rows, 4, generator=torch.Generator().manual_seed(seed))


def test_a_judge_refuses_what_it_cannot_learn_or_compare():
    y, shape = torch.arange(30) % 2, (2, 2)
    for labels in (y.float(), y.numpy(), y[:, None], None):
        says(lambda labels=labels: Judge(images(30), labels, images(9), shape), "whole labels")
    says(lambda: Judge(images(30), torch.eye(30)[0].long(), images(9), shape), "no classifier can be trained")
    for bad in ((3, 3), None, (4,)):
        says(lambda bad=bad: Judge(images(30), y, images(9), bad), "shape")
    judge = Judge(images(30), y, images(9), shape, hidden=[3])
    for samples in (images(5)[:, :3], images(5).reshape(5, 2, 2)):
        says(lambda samples=samples: judge(samples), "samples have shape")


def test_bytes_are_judged_as_the_floats_they_stand_for():
    x, held_out = ((255 * images(rows, rows)).byte() for rows in (40, 12))
    y = torch.arange(40) % 2
    of_bytes = Judge(x, y, held_out, (2, 2), hidden=[3])
    of_floats = Judge(x.float() / 255, y, held_out.float() / 255, (2, 2), hidden=[3])
    assert of_bytes.digest == of_floats.digest and of_bytes.real == of_floats.real
    assert of_bytes(held_out) == of_floats(held_out.float() / 255)


def test_cells_of_a_protocol_that_never_had_one_do_not_stand_in_the_way(tmp_path):
    Cells(tmp_path / "cells", {"steps": 3}, tmp_path / "wrong")
    cells = Cells(tmp_path / "cells", {"steps": 4}, tmp_path)
    cells.keep((1,), 2, 0.0)
    says(lambda: Cells(tmp_path / "cells", {"steps": 5}, tmp_path), "another run|other protocol")


@pytest.mark.parametrize("name", ["generation", "two-stage", "weak-labels"])
def test_a_missing_data_set_leaves_nothing(tmp_path, capsys, name):
    assert main(["reproduce", name, "--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 2
    assert "mnist is missing" in capsys.readouterr().err and not (tmp_path / "out").exists()


SMALL = ["--steps", "2", "--batch_size", "8", "--engine", "eager", "--latent-dim", "2", "--hidden", "[4]"]


@pytest.fixture
def fitted(tmp_path, capsys):
    """A run of any variant on a file of small binary images with labels."""
    x = np.random.default_rng(0).integers(0, 2, (30, 4, 4)).astype("float32")

    def fit(*words, y=None):
        np.savez(tmp_path / "data.npz", x=x, y=np.arange(30) % 3 if y is None else y)
        code = main(["fit", *words, *SMALL, "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run")])
        return code, capsys.readouterr().err.splitlines()[-1:], tmp_path / "run"

    return fit


M2 = ["m2_vae", "--condition-dim", "3"]
STAGED = ["two_stage_vae", "--second-hidden", "[4]"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*M2, "--labels", "1"], "labels is 1: count is 1"),
        ([*M2, "--labels", "99"], "labels is 99"),
        (["m2_vae", "--labels", "6", "--condition", "quadrants:1"], "labels is 6, but the data have none"),
        (["m2_vae", "--condition", "quadrants:1"], "condition 'quadrants:1': m2_vae takes labels, and no pixels"),
        (["l2_vae", "--stage_steps", "[2,2]"], "stage_steps is [2, 2]: l2_vae has no stages, so leave it out"),
        ([*STAGED, "--stage_steps", "[2]"], "stage_steps is [2]: steps has 1 entries for 2 stages"),
        ([*STAGED, "--stage_steps", "[0,2]"], "stage_steps is [0, 2]: steps is 0"),
    ],
)
def test_options_are_refused_by_their_own_names(fitted, words, message):
    code, err, run = fitted(*words)
    assert code == 2 and message in err[0] and not run.exists()


def test_a_run_whose_metrics_are_gone_is_shown_without_its_curve(fitted, capsys):
    _, _, run = fitted(*STAGED)
    (run / "stage-1/metrics.jsonl").unlink()
    assert main(["resume", str(run)]) == 0
    assert "stage 1: metrics.jsonl holds no steps" in capsys.readouterr().out


@pytest.mark.parametrize("gone", [["stage-1"], ["stage-1", "stage-2"], ["stage-1", "checkpoint.safetensors"]])
def test_a_stage_that_a_later_one_was_trained_upon_is_not_trained_again(fitted, capsys, gone):
    _, _, run = fitted(*STAGED)
    for name in gone:
        (run / name / "checkpoint.safetensors" if name.startswith("stage") else run / name).unlink()
    assert main(["resume", str(run)]) == 2
    assert "before it: put it back" in capsys.readouterr().err


def test_metrics_of_an_ordinary_run_may_be_gone_too(fitted, capsys):
    _, _, run = fitted("l2_vae")
    (run / "metrics.jsonl").unlink()
    assert main(["resume", str(run)]) == 0
    assert "metrics.jsonl holds no steps" in capsys.readouterr().out


def test_stage_steps_put_into_the_config_of_another_variant_are_refused(fitted, capsys):
    _, _, run = fitted("l2_vae")
    config = json.loads((run / "config.json").read_text()) | {"stage_steps": [2, 2]}
    (run / "config.json").write_text(json.dumps(config))
    assert main(["resume", str(run)]) == 2 and "l2_vae has no stages" in capsys.readouterr().err


def test_codes_of_data_that_have_become_others_are_refused(fitted, tmp_path, capsys):
    _, _, run = fitted("wae_mmd")
    np.savez(tmp_path / "data.npz", x=np.zeros((9, 4, 3), "float32"))
    assert main(["latent", str(run), "--draws", "100"]) == 2
    assert "x has 12 entries per datum, but wae_mmd was made for 16" in capsys.readouterr().err


def test_samples_cannot_be_judged_where_a_class_has_one_datum(fitted, capsys):
    _, _, run = fitted("wae_mmd", y=(np.arange(30) == 0).astype(int))
    assert main(["evaluate", str(run), "--samples", "10"]) == 2
    assert "no classifier can be trained" in capsys.readouterr().err and not (run / "evaluation.json").exists()


def test_no_label_is_no_class_to_judge_samples_by(fitted, capsys):
    _, _, run = fitted(*M2, y=np.where(np.arange(30) < 20, -1, 1))
    assert main(["evaluate", str(run), "--samples", "10"]) == 2
    assert "fewer than two labels" in capsys.readouterr().err


def test_a_beta_of_no_name_is_refused():
    with pytest.raises(pv.InputError, match="beta weighs 3: its keys must be the names of sites"):
        pv.ELBO(beta={3: 1.0})

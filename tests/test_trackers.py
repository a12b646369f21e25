"""Trackers: what they are handed, what they survive, and that a resumed run goes on in theirs."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import main

PLAN = {"engine": "eager", "progress": False, "batch_size": 10, "log_every": 1}


class Memory:
    """A tracker that remembers; it can stop the run, or fail."""

    def __init__(self, stop_at=None, fail_in=None, error=OSError):
        self.stop_at, self.fail_in, self.error = stop_at, fail_in, error
        self.config, self.rows, self.status = None, [], None

    def start(self, config):
        self._fail("start")
        self.config = config

    def log(self, step, values):
        self._fail("log")
        self.rows.append((step, values))
        if step == self.stop_at:
            raise pv.Stopped("enough")

    def finish(self, status):
        self._fail("finish")
        self.status = status

    def _fail(self, method):
        if method == self.fail_in:
            raise self.error("no network\nand more")


def make(name="l2_vae"):
    torch.manual_seed(0)
    return pv.variant(name)(data_dim=8, latent_dim=2, hidden=(5,))


def events(folder):
    """The scalars of a TensorBoard folder as TensorBoard itself reads them: tag -> steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_tracker_is_handed_the_plan_and_every_row(data):
    tracker = Memory()
    history = pv.fit(make(), data, steps=4, tracker=tracker, **PLAN)
    assert tracker.config["name"] == "l2_vae" and tracker.config["steps"] == 4 and tracker.config["step"] == 0
    assert tracker.status == "finished"
    for (step, values), row in zip(tracker.rows, history.rows, strict=True):
        assert step == row["step"] and values["loss"] == row["loss"] and values["terms/z"] == row["terms"]["z"]
        assert {"bound", "lr", "epoch", "seconds"} <= set(values) and "step" not in values


def test_without_a_tracker_nothing_of_it_is_there(data, tmp_path):
    pv.fit(make(), data, steps=2, out=tmp_path / "r", **PLAN)
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"metrics.jsonl", "checkpoint.safetensors"}


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_the_training_goes_on(method, data, capsys):
    pair, other = make(), make()
    pv.fit(pair, data, steps=4, tracker=Memory(fail_in=method), **PLAN)
    err = capsys.readouterr().err
    assert err == "tracking by Memory ends, the training goes on: OSError: no network\n"
    pv.fit(other, data, steps=4, **PLAN)
    assert all(torch.equal(a, b) for a, b in zip(pair.parameters(), other.parameters(), strict=True))


def test_ctrl_c_in_a_tracker_passes(data):
    with pytest.raises(KeyboardInterrupt):
        pv.fit(make(), data, steps=4, tracker=Memory(fail_in="log", error=KeyboardInterrupt), **PLAN)


def test_a_stopped_run_ends_after_its_block_and_goes_on_bit_for_bit(data, tmp_path):
    tracker, pair, whole = Memory(stop_at=50), make(), make()
    history = pv.fit(pair, data, steps=120, out=tmp_path, tracker=tracker, **PLAN)
    assert (history.step, history.stopped, tracker.status) == (100, "enough", "stopped")
    history = pv.fit(pair, data, steps=120, out=tmp_path, resume=True, **PLAN)
    assert (history.step, history.stopped) == (120, None)
    pv.fit(whole, data, steps=120, **PLAN)
    assert all(torch.equal(a, b) for a, b in zip(pair.parameters(), whole.parameters(), strict=True))


def test_replicas_have_a_tracker_each(data):
    trackers = [Memory(), Memory()]
    histories = pv.fit(make(), data, steps=3, replicas=2, tracker=trackers, **PLAN)
    assert [t.config["name"] for t in trackers] == ["l2_vae-0", "l2_vae-1"]
    for tracker, history in zip(trackers, histories, strict=True):
        assert [values["loss"] for _, values in tracker.rows] == [row["loss"] for row in history.rows]


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("tensorbord", "unknown tracker 'tensorbord'.*did you mean 'tensorboard'"),
     ("wandb", "needs the name of its project"),
     ("mlflow:", "needs the name of its experiment"), ("tensorboard:", "has no name"),
     (3, "tracker is 3: it must have"),
     (Memory, "it must have start"), ([Memory()], "one run, which takes one"), ("tensorboard", "has no folder")],
)  # fmt: skip
def test_bad_trackers_are_refused_before_any_work(tracker, message, data):
    pair = make()
    before = [p.clone() for p in pair.parameters()]
    with pytest.raises(pv.InputError, match=message):
        pv.fit(pair, data, steps=2, tracker=tracker, **PLAN)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


def test_one_object_cannot_follow_replicas(data):
    with pytest.raises(pv.InputError, match="give a list of one each"):
        pv.fit(make(), data, steps=2, replicas=2, tracker=Memory(), **PLAN)
    with pytest.raises(pv.InputError, match="3 entries for 2 runs"):
        pv.fit(make(), data, steps=2, replicas=2, tracker=[Memory()] * 3, **PLAN)


def test_a_missing_package_is_named(data, monkeypatch, tmp_path):
    monkeypatch.setattr("pyro_vaes.inference.trackers.find_spec", lambda name: None)
    for name in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for spec, package in {"wandb:p": "wandb", "mlflow:e": "mlflow", "tensorboard": r"pyro-vaes\[tensorboard\]"}.items():
        with pytest.raises(pv.InputError, match=f'pip install "{package}"'):
            pv.fit(make(), data, steps=2, out=tmp_path / "r", tracker=spec, **PLAN)
    assert not (tmp_path / "r").exists()


class Cut(Exception):
    pass


def cut_off(pair, data, out, tracker, at=250):
    """Train until a crash between two checkpoints: rows up to a block after the last one have been logged."""

    def crash(step):
        if step == at:
            raise Cut

    with pytest.raises(Cut):
        pv.fit(pair, data, steps=260, out=out, checkpoint_every=100, tracker=tracker, on_step=crash, **PLAN | LONG)
    return 200


LONG = {"log_every": 50}


def test_tensorboard_has_every_step_once_after_a_crash(data, tmp_path):
    pytest.importorskip("tensorboard")
    for out, spec, where in (("a", "tensorboard", "a/tensorboard"), ("b", f"tensorboard:{tmp_path}/logs", "logs/b")):
        pair = make()
        cut_off(pair, data, tmp_path / out, spec)
        history = pv.fit(pair, data, steps=260, out=tmp_path / out, checkpoint_every=100, resume=True, tracker=spec,
                         **PLAN | LONG)  # fmt: skip
        found = events(tmp_path / where)
        assert [step for step, _ in found["loss"]] == [50, 100, 150, 200, 250, 260]
        assert [value for _, value in found["terms/x"]] == pytest.approx([row["terms"]["x"] for row in history.rows])


def stand_in_wandb(monkeypatch):
    """W&B with the signatures of its reference (docs.wandb.ai, ``init``, ``Run.log``, ``Run.finish``)."""
    runs = []

    class Run:
        def __init__(self, **given):
            self.given, self.rows, self.exit = given, [], None

        def log(self, data, step=None, commit=None):
            self.rows.append((step, data))

        def finish(self, exit_code=None, quiet=None):
            self.exit = exit_code

    def init(
        entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None,
        config_exclude_keys=None, config_include_keys=None, allow_val_change=None, group=None, job_type=None,
        mode=None, force=None, reinit=None, resume=None, resume_from=None, fork_from=None, save_code=None,
        tensorboard=None, sync_tensorboard=None, monitor_gym=None, settings=None,
    ):  # fmt: skip
        assert mode in ("online", "offline", "disabled", "shared", None)
        assert resume in (True, False, None, "allow", "never", "must", "auto")
        assert reinit in (True, False, None, "default", "return_previous", "finish_previous", "create_new")
        assert not set(id) & set("/\\#?%:") and json.dumps(config)
        runs.append(Run(project=project, id=id, resume=resume, reinit=reinit, name=name, mode=mode, config=config))
        return runs[-1]

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def stand_in_mlflow(monkeypatch):
    """MLflow with the signatures of its reference (``mlflow.MlflowClient``, ``mlflow.entities.Metric``)."""
    store = SimpleNamespace(experiments={}, runs={})

    class Metric:
        def __init__(self, key, value, timestamp, step):
            assert isinstance(timestamp, int) and isinstance(step, int)
            # "alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), and slashes (/)"
            assert all(c.isascii() and (c.isalnum() or c in "_-. /") for c in key)
            self.key, self.value, self.timestamp, self.step = key, value, timestamp, step

    class MlflowClient:
        def __init__(self, tracking_uri=None, registry_uri=None):
            pass

        def get_experiment_by_name(self, name):
            found = store.experiments.get(name)
            return None if found is None else SimpleNamespace(experiment_id=found)

        def create_experiment(self, name, artifact_location=None, tags=None):
            store.experiments[name] = str(len(store.experiments))
            return store.experiments[name]

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            run_id = f"{len(store.runs):032x}"
            store.runs[run_id] = SimpleNamespace(name=run_name, params={}, metrics=[], status="RUNNING")
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def update_run(self, run_id, status=None, name=None):
            store.runs[run_id].status = status

        def log_param(self, run_id, key, value, synchronous=None):
            assert store.runs[run_id].params.setdefault(key, value) == value  # MLflow refuses another value
            assert len(value) <= 500

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            store.runs[run_id].metrics += metrics

        def set_terminated(self, run_id, status=None, end_time=None):
            assert status in ("FINISHED", "FAILED", "KILLED")
            store.runs[run_id].status = status

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient, module.entities, entities.Metric = MlflowClient, entities, Metric
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return store


def test_wandb_goes_on_in_its_run_without_a_step_twice(data, tmp_path, monkeypatch):
    runs, pair = stand_in_wandb(monkeypatch), make()
    cut_off(pair, data, tmp_path / "r", "wandb:faces")
    tracker = pv.WandB("faces", "offline")
    pv.fit(pair, data, steps=260, out=tmp_path / "r", checkpoint_every=100, resume=True, tracker=tracker, **PLAN | LONG)
    first, second = runs
    assert (first.exit, second.exit) == (1, 0)
    assert first.given["id"] == second.given["id"] and first.given["project"] == "faces"
    assert (second.given["resume"], second.given["mode"], second.given["name"]) == ("allow", "offline", "r")
    steps = [step for run in runs for step, _ in run.rows]
    assert steps == [50, 100, 150, 200, 250, 260]
    assert "terms/x" in first.rows[0][1]
    assert json.loads((tmp_path / "r/tracker.json").read_text()) == {"wandb": first.given["id"]}


def test_mlflow_goes_on_in_its_run_without_a_step_twice(data, tmp_path, monkeypatch):
    store, pair = stand_in_mlflow(monkeypatch), make()
    cut_off(pair, data, tmp_path / "r", "mlflow:faces")
    assert [run.status for run in store.runs.values()] == ["FAILED"]
    pv.fit(
        pair,
        data,
        steps=260,
        out=tmp_path / "r",
        checkpoint_every=100,
        resume=True,
        tracker="mlflow:faces",
        **PLAN | LONG,
    )
    [run] = store.runs.values()
    assert (run.status, run.name, run.params["pair"], run.params["lr"]) == ("FINISHED", "r", "l2_vae", "0.001")
    assert [m.step for m in run.metrics if m.key == "loss"] == [50, 100, 150, 200, 250, 260]


def test_names_that_mlflow_refuses_are_changed(data, monkeypatch):
    store = stand_in_mlflow(monkeypatch)
    pair = pv.two_stage_vae(data_dim=8, latent_dim=2, hidden=(5,), second_hidden=(5,))
    pv.fit(pair, data, steps=1, tracker="mlflow:faces", **PLAN)
    assert "terms/z_2" in {m.key for run in store.runs.values() for m in run.metrics}


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}', '{"wandb": "../../etc"}', '{"wandb": null}', "[" * 9999])
def test_a_damaged_note_of_the_tracker_begins_a_new_run_of_it(text, data, tmp_path, monkeypatch):
    runs = stand_in_wandb(monkeypatch)
    (tmp_path / "tracker.json").write_text(text)
    pv.fit(make(), data, steps=1, out=tmp_path, tracker="wandb:faces", **PLAN)
    assert len(runs[0].given["id"]) == 12


def test_the_command_line_tracks_and_resumes(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    out = str(tmp_path / "r")
    small = ["--hidden", "[6]", "--latent_dim", "2", "--steps", "20", "--limit", "60", "--engine", "eager"]
    assert main(["fit", "t_vae", *small, "--out", out, "--track", "tensorbord"]) == 2
    assert "unknown tracker 'tensorbord'" in capsys.readouterr().err and not (tmp_path / "r").exists()
    assert main(["fit", "t_vae", *small, "--out", out, "--track", "tensorboard"]) == 0
    assert [step for step, _ in events(tmp_path / "r/tensorboard")["bound"]] == [20]
    assert json.loads((tmp_path / "r/config.json").read_text())["track"] == "tensorboard"
    assert main(["resume", out]) == 0
    assert [step for step, _ in events(tmp_path / "r/tensorboard")["bound"]] == [20]

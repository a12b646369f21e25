"""Fit a pair in stages: one call of the training loop after the other, each with a checkpoint of its own."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vaes.errors import InputError, said
from pyro_vaes.inference import checkpoint, kept
from pyro_vaes.inference.fit import fit
from pyro_vaes.inference.lock import held
from pyro_vaes.inference.plan import History, Plan
from pyro_vaes.inference.ranks import Ranks, answered
from pyro_vaes.inference.track import CHECKPOINT, METRICS
from pyro_vaes.pair import Pair

PER_STAGE = ("steps", "batch_size", "lr", "schedule")


def stages_of(pair: Pair) -> tuple[int, ...]:
    """The stages that a pair's objective has, in the order in which they are fitted; () if it has none.

    >>> from pyro_vaes.variants import l2_vae, two_stage_vae
    >>> stages_of(two_stage_vae(data_dim=4)), stages_of(l2_vae(data_dim=4))
    ((1, 2), ())
    """
    found = getattr(pair.objective, "stages", ())
    return tuple(found) if isinstance(found, Sequence) and not isinstance(found, str) else (found,)


def fit_stages(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> list[History]:
    """Fit a pair whose objective has ``stages``, one after the other; what a stage does not touch stays as it is.

    Args:
        pair: its ``objective.stages`` are fitted in that order; during each fit ``objective.stage`` is that stage, and
            afterwards what it was. Its parameters change in place.
        x, y: (N, d) and conditions, as for :func:`~pyro_vaes.inference.fit.fit`.
        out: folder; stage k writes into ``stage-k`` inside of it what a run of its own would. After the last stage
            its checkpoint lies in the folder itself, where :class:`~pyro_vaes.inference.run.Run` looks for it, and
            all rows of all stages, their steps counted on, each with its ``stage``.
        resume: go on from where the checkpoints in ``out`` are, in whichever stage, bit for bit.
        options: of ``fit``, for all stages; ``steps``, ``batch_size``, ``lr`` and ``schedule`` may be lists, an entry
            for each stage.

    Returns:
        The history of each stage; fewer than there are stages, the last one interrupted or stopped, if a signal or a
        tracker ended the fit.

    Raises:
        InputError: what ``fit`` raises; for an objective without stages, a list of another length, or a folder that
            holds a checkpoint already, or on ``resume`` lacks that of an earlier stage, before any work starts.

    Source: Dai & Wipf (2019) for two stages; the rest is ours.

    >>> import torch
    >>> from pyro_vaes.variants import two_stage_vae
    >>> pair = two_stage_vae(data_dim=4, latent_dim=2, hidden=(5,), second_hidden=(5,))
    >>> [h.step for h in fit_stages(pair, torch.rand(9, 4), steps=[3, 2], progress=False)]
    [3, 2]
    """
    plans = plans_of(pair, options)
    folders = {stage: None if out is None else Path(out) / f"stage-{stage}" for stage in plans}
    _check_free(out, list(folders.values()), resume)
    objective: Any = pair.objective
    before, histories = objective.stage, []
    ranks = Ranks.of(options.get("fabric"))
    with answered(ranks), held(out, ranks=ranks):
        try:
            for stage, plan in plans.items():
                objective.stage = stage
                histories.append(fit(pair, x, y, out=folders[stage], resume=resume, **{**options, **plan}))
                if histories[-1].interrupted is not None or histories[-1].stopped is not None:
                    return histories
        finally:
            objective.stage = before
        if out is not None and (ranks is None or ranks.first):
            _gather(Path(out), folders, histories)
    return histories


def plans_of(pair: Pair, options: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Give every stage its own of the options that may differ, and refuse a plan that cannot be.

    Raises:
        InputError: for an objective without stages, a list of another length than there are stages, or a bad plan.

    >>> from pyro_vaes.variants import two_stage_vae
    >>> plans_of(two_stage_vae(data_dim=4), {"steps": [5, 6], "lr": 0.1})
    {1: {'steps': 5, 'lr': 0.1}, 2: {'steps': 6, 'lr': 0.1}}
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}: stages are fitted one pair at a time")
    stages = stages_of(pair)
    if not stages:
        raise InputError(f"{pair.name} has no stages ({said(pair.objective)}): use fit")
    numbers = all(isinstance(stage, int) and not isinstance(stage, bool) and stage > 0 for stage in stages)
    if not numbers or len(set(stages)) < len(stages) or not hasattr(pair.objective, "stage"):
        raise InputError(
            f"stages of {pair.name} are {stages!r}: they must be different whole numbers above 0, and its objective "
            "must have a stage to set"
        )
    if "replicas" in options:
        raise InputError("replicas are not fitted in stages: fit one pair at a time")
    plans: dict[int, dict[str, Any]] = {stage: {} for stage in stages}
    for name in PER_STAGE:
        if name not in options:
            continue
        value = options[name]
        several = isinstance(value, Sequence) and not isinstance(value, str)
        if several and len(value) != len(stages):
            raise InputError(f"{name} has {len(value)} entries for {len(stages)} stages")
        for i, stage in enumerate(stages):
            plans[stage][name] = value[i] if several else value
    for plan in plans.values():
        Plan(**plan)
    return plans


def _check_free(out: str | Path | None, folders: Sequence[Path | None], resume: bool) -> None:
    """Refuse here what ``fit`` would refuse only after the first stage."""
    if out is not None and not str(out):
        raise InputError("out has no name")
    if out is None:
        return
    if resume:
        _check_kept(Path(out), folders)
        return
    for folder in (Path(out), *folders):
        if folder is not None and kept.exists(folder):
            raise InputError(f"{folder} already holds a checkpoint: resume it, or name another folder")


def _check_kept(out: Path, folders: Sequence[Path | None]) -> None:
    """Refuse to train a stage again that a later one was trained upon."""
    for earlier, later in pairwise(folder for folder in (*folders, out) if folder is not None):
        if kept.exists(later) and not kept.exists(earlier):
            there, lacking = later / CHECKPOINT, earlier / CHECKPOINT
            raise InputError(f"there is {there}, but no {lacking} before it: put it back, or name another folder")


def _gather(out: Path, folders: Mapping[int, Path | None], histories: Sequence[History]) -> None:
    """Put the last checkpoint and the rows of all stages where those of one run lie."""
    last = list(folders.values())[-1]
    assert last is not None
    text = "".join(json.dumps(row) + "\n" for row in rows_of(list(folders), histories))
    checkpoint.write_atomically(out / METRICS, text.encode())
    checkpoint.write_atomically(out / CHECKPOINT, (last / CHECKPOINT).read_bytes())


def rows_of(stages: Sequence[int], histories: Sequence[History]) -> list[dict[str, Any]]:
    """The logged rows of all stages, their steps counted on, each with its stage.

    >>> one = History(rows=[{"step": 2}], step=2)
    >>> rows_of([1, 2], [one, one])
    [{'step': 2, 'stage': 1}, {'step': 4, 'stage': 2}]
    """
    rows, taken = [], 0
    for stage, history in zip(stages, histories, strict=False):
        rows += [{**row, "step": row["step"] + taken, "stage": stage} for row in history.rows]
        taken += history.step
    return rows

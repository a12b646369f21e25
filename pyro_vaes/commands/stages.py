"""What a training came to, and what the commands do where a pair is fitted in stages."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.errors import InputError, said

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.inference.plan import History
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def check_stages(pair: "Pair", plan: dict[str, Any], stage_steps: Any) -> None:
    """Refuse steps per stage that the pair cannot have; a pair without stages must be given none."""
    from pyro_vaes.inference.stages import plans_of, stages_of

    if stage_steps is not None and not stages_of(pair):
        raise InputError(f"stage_steps is {said(stage_steps)}: {pair.name} has no stages, so leave it out")
    if stages_of(pair):
        try:
            plans_of(pair, plan | ({} if stage_steps is None else {"steps": stage_steps}))
        except InputError as error:
            raise InputError(
                str(error) if stage_steps is None else f"stage_steps is {said(stage_steps)}: {error}"
            ) from None


def fitted(
    runs: "list[Run]", pairs: "list[Pair]", x: "Tensor", y: "Tensor | None", options: dict[str, Any], resume: bool
) -> "list[History]":
    """Fit one pair, or replicas together; those with stages one after the other, since they are fitted one by one.

    Returns:
        A history for each run; of stages it has the rows of all of them. A run that was interrupted is the last.
    """
    from pyro_vaes.inference.fit import fit
    from pyro_vaes.inference.stages import fit_stages, stages_of

    plan, steps = runs[0].config["plan"], runs[0].config["stage_steps"]
    if not stages_of(pairs[0]):
        if len(runs) == 1:
            return [fit(pairs[0], x, y, **plan, **options, out=runs[0].path, resume=resume)]
        return fit(pairs, x, y, **plan, **options, out=runs[0].path.parent, resume=resume)
    histories: list[History] = []
    for run, pair in zip(runs, pairs, strict=True):
        plan = run.config["plan"] | ({} if steps is None else {"steps": steps})
        histories.append(_joined(pair, fit_stages(pair, x, y, **plan, **options, out=run.path, resume=resume)))
        if histories[-1].interrupted is not None:
            break
    return histories


def _joined(pair: "Pair", histories: "list[History]") -> "History":
    """One history of all stages."""
    from pyro_vaes.inference.plan import History
    from pyro_vaes.inference.stages import rows_of, stages_of

    last, rows = histories[-1], rows_of(stages_of(pair), histories)
    return History(rows, sum(h.step for h in histories), last.interrupted, pair, last.engine, last.stopped)


def report(pair: "Pair", history: "History", folder: Path) -> list[str]:
    """Draw what was trained, stage by stage, say what it came to, and give the names of the figures."""
    from pyro_vaes.commands.files import write_figure
    from pyro_vaes.evaluation.plots import training
    from pyro_vaes.inference.densities import bound_in_words

    shown, figures = bound_in_words(pair), []
    for title, figure, rows, steps in parts(pair, history, folder):
        if not rows:  # somebody has emptied metrics.jsonl: the parameters are there all the same
            print(f"{title}: metrics.jsonl holds no steps, so there is no curve")
            continue
        write_figure(figure, training(rows, title, shown))
        figures.append(figure.name)
        last = rows[-max(1, len(rows) // 20) :]
        mean, loss = (sum(row[key] for row in last) / len(last) for key in ("bound", "loss"))
        when = "(mean of the last twentieth of the steps)"
        print(f"{title}: {steps} steps, {shown} {mean:.3f} nats per datum {when}")
        if abs(loss + mean) > 1e-3:
            print(f"objective {pair.objective!r}: {loss:.3f} nats per datum, {_made_of(last)}")
        for name in last[0].get("seen", {}):
            value = sum(row["seen"][name] for row in last) / len(last)
            wins = name == "accuracy" and value > 0.95
            print(f"{name}: {value:.3f}{': the discriminator wins, and the fakes have lost their way' if wins else ''}")
    for name, value in gammas(pair).items():
        print(f"{name}: {value:.3g}")
    return figures


def _made_of(rows: list[dict[str, Any]]) -> str:
    """The terms of a loss that is not the bound: with beta, free bits, recycling, another player."""
    means = {name: sum(row["terms"][name] for row in rows) / len(rows) for name in rows[0]["terms"]}
    terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    if "discriminator" in means:
        return f"the sum of two players' losses, which has no minimum to reach; its terms: {terms}"
    return f"which is minimised; its terms: {terms}"


def parts(pair: "Pair", history: "History", folder: Path) -> "Iterator[tuple[str, Path, list[dict[str, Any]], int]]":
    """Split what was trained by its stages: title, where its figure goes, rows and steps of each."""
    from pyro_vaes.inference.stages import stages_of

    if not stages_of(pair):
        yield pair.name, folder / "training.png", history.rows, history.step
    taken = 0
    for stage in stages_of(pair):
        rows = [row for row in history.rows if row["stage"] == stage]
        steps = rows[-1]["step"] - taken if rows else 0
        yield f"{pair.name}, stage {stage}", folder / f"training-stage-{stage}.png", rows, steps
        taken += steps


def gammas(pair: "Pair") -> dict[str, float]:
    """Give each learned variance that all entries of a site share, with its floor in its name.

    A density whose gamma is at the floor says what the floor is, and little about the data.

    >>> from pyro_vaes.variants import gamma_vae
    >>> [(name, round(value, 4)) for name, value in gammas(gamma_vae(data_dim=4)).items()]
    [('gamma_x (learned, at least 1e-06)', 0.09)]
    """
    from pyro_vaes.models.gaussian import LatentGaussian
    from pyro_vaes.models.two_stage import TwoStageGaussian
    from pyro_vaes.nn.scales import LearnedScale

    if not isinstance(pair.model, LatentGaussian | TwoStageGaussian):
        return {}
    scales = {"x": pair.model.scale, "z": getattr(pair.model, "second_scale", None)}
    return {
        f"gamma_{site} (learned, at least {scale.minimum**2:g})": scale().square().item()
        for site, scale in scales.items()
        if isinstance(scale, LearnedScale) and scale.log_excess.numel() == 1
    }

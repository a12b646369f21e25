"""What is killed: small runs of every kind of training that has files of its own."""

import json
from dataclasses import dataclass
from pathlib import Path

from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.kept import CHECKPOINT
from pyro_vaes.inference.track import METRICS

SMALL = (
    *("--data", "digits", "--limit", "160", "--batch_size", "32", "--checkpoint_every", "30"),
    *("--seed", "3", "--hidden", "[12]"),
)


@dataclass(frozen=True)
class Subject:
    """A ``fit`` command, and which moments it has besides those that all have."""

    name: str
    arguments: tuple[str, ...]
    steps: int
    own: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        return ["fit", *self.arguments, "--out", str(out)]


def _subject(name: str, target: str, steps: int, *own: str, options: str = "") -> Subject:
    return Subject(name, (target, *SMALL, "--steps", str(steps), *options.split()), steps, own)


BERNOULLI = "--binarise threshold05 --latent_dim 16 --hidden [4]"
SUBJECTS = [
    _subject("t_vae, eager", "t_vae", 300, options="--engine eager --latent_dim 2"),
    _subject("t_vae, graph", "t_vae", 300, options="--engine graph --latent_dim 2"),
    _subject("two stages", "two_stage_vae", 180, "gather", options="--engine eager --latent_dim 2 --second_hidden [9]"),
    _subject("three replicas", "ic_vae", 150, options="--engine graph --latent_dim 2 --replicas 3"),
    _subject("finished by the objective", "empirical_cvae", 90, "finish", options=f"--engine eager {BERNOULLI}"),
]


def left(out: Path) -> dict[str, object]:
    """Everything that a run leaves and that must not depend on how often it was killed."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name == CHECKPOINT:
            tensors, values = checkpoint.load(path)
            found[name] = ({key: (t.dtype, tuple(t.shape), t.numpy().tobytes()) for key, t in tensors.items()}, values)
        elif path.name == METRICS:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif path.name == "config.json":
            found[name] = path.read_bytes()
    return found


def different(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The files in which two runs differ."""
    return sorted(name for name in {*one, *other} if name not in one or name not in other or one[name] != other[name])


def litter(out: Path) -> list[str]:
    """What a killed process left behind and nobody has cleared away."""
    return sorted(str(path.relative_to(out)) for path in out.rglob(".*"))


def step_of(out: Path) -> int | None:
    """The step of the newest checkpoint of a run, of its last stage or first replica; None before the first."""
    steps = []
    for path in out.rglob(CHECKPOINT):
        steps.append(checkpoint.load(path)[1]["step"])
    return max(steps, default=None)

"""The mutation run itself: what it makes, that it tells a wrong thing from the same in other words, what is written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutants.operators import NOTHING, mutants
from mutants.report import OUTCOMES, equivalents
from mutants.room import ROOMS, ROOT

PROGRAM = '''
class Guide(PyroModule):
    """Words: a - b."""

    def __init__(self, encoder, beta=2.0):
        if beta < 0:
            raise InputError("beta - 1")
        self.encoder, self.beta = encoder, beta

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def cost(self, q_site, p_site):
        per_datum = kl_divergence(q_site, p_site).sum() * self.beta
        return per_datum - self.encoder(p_site).detach()
'''


def test_every_kind_of_wrong_thing_is_made():
    path = ROOT / "pyro_vaes" / "variants" / "nowhere.py"
    made = {f"{m.operator}: {m.before} -> {m.full}" for m in mutants(path, PROGRAM)}
    made = {" ".join(words.split()) for words in made}
    sample = "pyro.sample('z', dist.Normal(loc, scale).to_event(1))"
    for words in (
        "sign: per_datum - self.encoder(p_site).detach() -> per_datum + self.encoder(p_site).detach()",
        "sign: kl_divergence(q_site, p_site) -> -kl_divergence(q_site, p_site)",
        "plate: data_plate(x, size) -> data_plate(x)",
        "plate: dist.Normal(loc, scale).to_event(1) -> dist.Normal(loc, scale)",
        "detach: self.encoder(x) -> [t.detach() for t in self.encoder(x)]",
        "detach: self.encoder(p_site).detach() -> self.encoder(p_site)",
        "scale: kl_divergence(q_site, p_site).sum() -> kl_divergence(q_site, p_site).mean()",
        "scale: kl_divergence(q_site, p_site).sum() * self.beta -> kl_divergence(q_site, p_site).sum()",
        "swap: kl_divergence(q_site, p_site) -> kl_divergence(p_site, q_site)",
        "swap: dist.Normal(loc, scale) -> dist.Normal(scale, loc)",
        "swap: dist.Normal(loc, scale) -> dist.Normal(0 * loc, 0 * scale + 1)",
        "constant: self.beta -> 2.0",
        "constant: size -> None",
    ):
        assert words in made
    plates = [words for words in made if words.startswith("plate: with")]
    assert plates and plates[0].endswith(f"-> loc, scale = self.encoder(x); return {sample}")
    assert not [words for words in made if "beta - 1" in words or "Words" in words or "beta < 0" in words]


def test_a_mutant_is_the_file_with_one_thing_changed():
    import ast

    for mutant in mutants(ROOT / "pyro_vaes" / "guides" / "nowhere.py", PROGRAM):
        tree = mutant.tree()
        assert ast.dump(tree) != ast.dump(ast.parse(PROGRAM)), mutant.words
        compile(tree, "nowhere", "exec")


def test_what_is_called_equivalent_is_a_mutant_that_is_made():
    files = {file for file, _ in equivalents()}
    paths = [p for room in ROOMS.values() for p in room if str(p.relative_to(ROOT)) in files]
    made = {(m.file, m.words) for path in paths for m in mutants(path)}
    assert set(equivalents()) <= made
    assert all(len(reason) > 10 for reason in equivalents().values())


def test_the_counts_in_the_guide_are_those_of_the_results():
    result = json.loads((ROOT / "results" / "mutants.quick.json").read_text())
    for counts in (result["total"], *result["rooms"].values(), *result["operators"].values()):
        assert counts["made"] == sum(counts[word] for word in OUTCOMES[1:])
    assert len(result["survivors"]) == result["total"]["survived"]
    assert len(result["undecided"]) == result["total"]["undecided"]
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    said = re.search(
        r"Of ([\d,]+) mutants ([\d,]+) were caught, ([\d,]+) ran out of time, ([\d,]+) are equivalent, "
        r"([\d,]+) survived every test that runs their line, ([\d,]+) are undecided \(.*?\) and ([\d,]+) were not run",
        text,
    )
    assert said
    assert [int(n.replace(",", "")) for n in said.groups()] == list(result["total"].values())


@pytest.mark.slow
@pytest.mark.parametrize(("more", "expected"), [([], {"caught", "timeout"}), (["--nothing"], {"survived"})])
def test_a_sample_is_caught_and_nothing_is_not(more, expected, tmp_path):
    """All mutants of a model, and what is the same in other words."""
    out = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "tests.mutants", "--out", str(out), "--budget", "5", *more]
    command += ["--only", "models/datum_precision", "--tests", "tests/test_objectives.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert len(found) > (1 if more else 12)
    assert {row["outcome"] for row in found} <= expected, [row for row in found if row["outcome"] not in expected]


def test_doing_nothing_is_another_program():
    made = mutants(ROOT / "pyro_vaes" / "guides" / "nowhere.py", PROGRAM, NOTHING)
    assert [m.full for m in made if "-" in m.before] == ["[per_datum - self.encoder(p_site).detach()][0]"]

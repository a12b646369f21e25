"""Count what the tests said: by operator, by room, and what nobody saw."""

from collections import Counter
from pathlib import Path
from typing import Any

from pyro_vaes.experiments.record import markdown_table, record

from .mutant import Mutant
from .room import ROOMS, ROOT, room_of
from .run import all_mutants, results

HERE = Path(__file__).parent
OUTCOMES = ("made", "caught", "timeout", "equivalent", "survived", "not run")


def equivalents(path: Path = HERE / "equivalent.txt") -> dict[tuple[str, str], str]:
    """Mutants that change nothing one could observe, by file and words, each with the reason."""
    found = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            file, words, reason = (part.strip() for part in line.split(" | "))
            found[f"pyro_vaes/{file}", words] = reason
    return found


def outcome(mutant: Mutant, found: dict[str, dict[str, Any]], same: dict[tuple[str, str], str]) -> str:
    """Of one mutant; a file that has changed since has not been run."""
    said = found.get(mutant.key, {}).get("outcome", "not run")
    if said in ("survived", "unseen") and (mutant.file, mutant.words) in same:
        return "equivalent"
    return {"unseen": "survived", "broken": "not run", "process": "caught"}.get(said, said)


def counted(made: list[Mutant], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    same = equivalents()
    rooms: dict[str, Counter[str]] = {room: Counter() for room in ROOMS}
    operators: dict[str, Counter[str]] = {}
    survivors, total = [], Counter[str]()
    for mutant in made:
        word = outcome(mutant, found, same)
        if word == "unfit":  # no program: what has no default cannot be left out
            continue
        for counts in (rooms[room_of(mutant.path)], operators.setdefault(mutant.operator, Counter()), total):
            counts.update(["made", word])
        if word == "survived":
            row = found[mutant.key]
            survivors.append({"file": mutant.file, "line": mutant.line, "mutant": mutant.words, "tests": row["asked"]})
    return {
        "total": table_of(total),
        "rooms": {name: table_of(c) for name, c in rooms.items()},
        "operators": {name: table_of(c) for name, c in operators.items()},
        "survivors": survivors,
        "equivalent": [
            {"file": file, "mutant": words, "reason": reason} for (file, words), reason in sorted(same.items())
        ],
    }


def table_of(counts: Counter[str]) -> dict[str, int]:
    return {word: counts[word] for word in OUTCOMES}


def table(result: dict[str, Any]) -> str:
    rows = [[name, *c.values()] for group in ("rooms", "operators") for name, c in result[group].items()]
    return markdown_table(["", *OUTCOMES], [*rows, ["**all**", *result["total"].values()]])


def write(budget: float) -> None:
    """Write results/mutants.quick.json, and print the table and the survivors."""
    result = {"settings": {"seeds": [0], "seconds of tests per mutant": budget}, **counted(all_mutants(), results())}
    path = record(ROOT / "results", "mutants", "quick", result, {})
    print(table(result))
    for row in result["survivors"]:
        print(f"{row['file']}:{row['line']}: {row['mutant']} ({row['tests']} tests)")
    print(f"\nwrote {path.relative_to(ROOT)}")

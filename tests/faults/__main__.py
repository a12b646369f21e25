"""Kill training runs for a while: python -m tests.faults --kills 50 --minutes 60."""

import argparse
import sys
import time
from pathlib import Path

from pyro_vaes.experiments.record import record

from .harness import SUBJECTS, Harness


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many SIGKILLs in all")
    parser.add_argument("--minutes", type=float, default=60, help="after these nothing more is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=None, help="folder for faults.quick.json, such as results")
    given = parser.parse_args(argv)
    began = time.monotonic()
    harness: Harness

    def say(line: str) -> None:
        done = harness.tally.kills.total()
        bar = "#" * (20 * done // given.kills)
        print(f"[{bar:<20}] {done}/{given.kills} {time.monotonic() - began:6.0f} s  {line}", flush=True)

    harness = Harness(given.kills, given.seed, began + 60 * given.minutes, say, SUBJECTS)
    tally = harness.run()
    seconds = time.monotonic() - began
    kills = tally.kills.total()
    print(f"{kills} kills, {tally.survived} of them survived bit for bit, in {len(tally.runs)} runs, {seconds:.0f} s")
    for kind, count in sorted(tally.kills.items()):
        print(f"  {count:3d} {kind}")
    for kind, count in sorted(tally.signals.items()):
        print(f"  {count:3d} {kind}")
    print(*tally.bad, sep="\n")
    if given.out is not None:
        result = {
            "settings": {"kills": given.kills, "seeds": [given.seed], "minutes": given.minutes},
            "seconds": round(seconds, 1), "kills": kills, "survived": tally.survived,
            "by moment": dict(sorted(tally.kills.items())), "signals": dict(sorted(tally.signals.items())),
            "longest seconds from SIGTERM to the end": round(tally.longest, 2), "runs": tally.runs, "bad": tally.bad,
        }  # fmt: skip
        record(given.out, "faults", "quick", result, {})
    return 1 if tally.bad or tally.survived < kills else 0


if __name__ == "__main__":
    sys.exit(main())

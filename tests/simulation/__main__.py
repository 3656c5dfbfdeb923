"""`python -m tests.simulation 0..10000`: play many seeds, two at a time, show the first
that fails with its whole history.

Seeds are written `1234`, `0..10000` (the end apart) or `3,7,100..200`. With `--nights` each is
a night of eight hours and a half, see `nights`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.many import Short, seeds_of, short, short_night
from tests.simulation.nights import play_night
from tests.simulation.simulation import Outcome, play

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 5
"""At most so many failures are listed; the first is told whole."""


def _all(seeds: list[int], workers: int, *, nights: bool) -> Iterator[Short]:
    one = short_night if nights else short
    if workers == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    # Workers are made anew now and then, so that a long run stays small.
    with multiprocessing.get_context("spawn").Pool(
        workers, maxtasksperchild=50
    ) as pool:
        at_once = 1 if nights else 20
        yield from pool.imap_unordered(one, seeds, chunksize=at_once)


def main(argv: list[str]) -> int:
    """Play the seeds; 0 if all of them are clean."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("seeds", help="1234, 0..10000 or a list of both")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--history", action="store_true", help="print every seed's history"
    )
    parser.add_argument(
        "--nights", action="store_true", help="long nights with a change of clocks"
    )
    options = parser.parse_args(argv)
    seeds = seeds_of(options.seeds)
    if options.history:
        for seed in seeds:
            _tell(play_night(seed) if options.nights else play(seed))
        return 0
    began, told = time.monotonic(), 0.0
    bad: list[Short] = []
    events, seconds = 0, 0.0
    for n, one in enumerate(_all(seeds, options.workers, nights=options.nights), 1):
        events, seconds = events + one.events, seconds + one.seconds
        if one.broken:
            bad.append(one)
        now = time.monotonic()
        if now - told > 1.0 or n == len(seeds):
            told = now
            print(
                f"\r{n}/{len(seeds)} seeds, {len(bad)} broken, {events} events, "
                f"{seconds / 3600:.1f} simulated hours in {now - began:.0f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
    if not bad:
        print(f"{len(seeds)} seeds clean")
        return 0
    bad.sort()
    print(bad[0].report)
    counted = Counter(one.broken.partition(":")[0] for one in bad)
    for invariant, count in counted.most_common():
        some = [str(o.seed) for o in bad if o.broken.startswith(f"{invariant}:")]
        print(f"{count} × {invariant}: seeds {', '.join(some[:SHOWN])}")
    return 1


def _tell(outcome: Outcome) -> None:
    for line in outcome.history:
        print(line)
    print(f"seed {outcome.seed}: {outcome.broken or 'clean'}, {outcome.digest}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

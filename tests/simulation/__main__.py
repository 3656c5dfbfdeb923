"""`python -m tests.simulation 0..10000`: play many seeds, two at a time, show the first
that fails with its whole history.

Seeds are written `1234`, `0..10000` (the end apart) or `3,7,100..200`. With `--nights` each is
a night of eight hours and a half, with `--graphs` a graph of a thousand tasks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.graphs import play_graph
from tests.simulation.many import Short, seeds_of, short, short_graph, short_night
from tests.simulation.nights import play_night
from tests.simulation.simulation import Outcome, play

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 5
"""At most so many failures are listed; the first is told whole."""


KINDS = {"worlds": short, "nights": short_night, "graphs": short_graph}
PLAYED = {"worlds": play, "nights": play_night, "graphs": play_graph}


def _all(seeds: list[int], workers: int, kind: str) -> Iterator[Short]:
    one = KINDS[kind]
    if workers == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    # Workers are made anew now and then, so that a long run stays small.
    with multiprocessing.get_context("spawn").Pool(
        workers, maxtasksperchild=50
    ) as pool:
        at_once = 20 if kind == "worlds" else 1
        yield from pool.imap_unordered(one, seeds, chunksize=at_once)


def main(argv: list[str]) -> int:
    """Play the seeds; 0 if all of them are clean."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("seeds", help="1234, 0..10000 or a list of both")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--history", action="store_true", help="print every seed's history"
    )
    for kind, what in (
        ("nights", "long nights with a change of clocks"),
        ("graphs", "graphs of a thousand tasks"),
    ):
        parser.add_argument(
            f"--{kind}", action="store_const", const=kind, dest="kind", help=what
        )
    parser.set_defaults(kind="worlds")
    options = parser.parse_args(argv)
    seeds = seeds_of(options.seeds)
    if options.history:
        for seed in seeds:
            _tell(PLAYED[options.kind](seed))
        return 0
    began, told = time.monotonic(), 0.0
    bad: list[Short] = []
    events, seconds = 0, 0.0
    for n, one in enumerate(_all(seeds, options.workers, options.kind), 1):
        events, seconds = events + one.events, seconds + one.seconds
        if one.broken:
            bad.append(one)
            print(f"\rseed {one.seed}: {one.broken}", file=sys.stderr, flush=True)
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

"""Runs worlds by their seeds: `python -m tests.simulation --seeds 1000 --hours 6`, or one of them with `--seed 417 --tell`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sts_manager.domain.model import JobStatus
from tests.simulation.invariants import coverage
from tests.simulation.world import HOUR, World

FEW = 3
"""The exit code of a run in which nothing failed, but some fault was not met in some status."""


@dataclass
class Sum:
    """What became of several seeds."""

    seeds: int = 0
    hours: float = 0.0
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    statistics: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, other: Sum) -> None:
        self.seeds += other.seeds
        self.hours += other.hours
        self.met += other.met
        self.statistics += other.statistics
        self.failed += other.failed


def run_seeds(seeds: Iterable[int], hours: float) -> Sum:
    """Each in a world of its own; a failing one is told, and the others go on."""
    total = Sum()
    logging.disable(logging.CRITICAL)
    try:
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix="sts-manager-world-") as folder:
                world = World(seed, Path(folder), hours)
                try:
                    world.run()
                except AssertionError as error:
                    total.failed.append(str(error))
                total.add(Sum(1, world.timeline.now / HOUR, world.chance.met, world.statistics()))
    finally:
        logging.disable(logging.NOTSET)
    return total


def shown(total: Sum) -> str:
    empty, table = coverage(total.met)
    lines = [f"{'':24} {'':1}" + "".join(f"{status.value:>10}" for status in JobStatus)]
    lines += [f"{fault:25} " + "".join(f"{row.get(one.value, 0):>10,}" for one in JobStatus) for fault, row in table.items()]
    lines += [f"empty: {cell}" for cell in empty[:10]]
    if len(empty) > 10:
        lines.append(f"empty: {len(empty) - 10} more; so few seeds, or hours, show little")
    return "\n".join(lines)


def told(seed: int, hours: float) -> int:
    """One seed, with the log of all that is in it."""
    from tests.simulation.telling import tell

    return tell(seed, hours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--hours", type=float, default=6.0, help="of storm in each world")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first-failure", action="store_true", help="end with the first seed that fails")
    parser.add_argument("--tell", action="store_true", help="with --seed: show everything that happens")
    given = parser.parse_args()
    if given.seeds < 1 or given.processes < 1 or given.hours <= 0:
        parser.error("--seeds and --processes are at least 1, and --hours more than 0")
    if given.seed is not None:
        if given.tell:
            return told(given.seed, given.hours)
        total = run_seeds([given.seed], given.hours)
        print("\n".join(total.failed) or f"seed {given.seed}: all invariants held")
        return 1 if total.failed else 0
    total = Sum()
    chunks = [range(at, min(at + 5, given.first + given.seeds)) for at in range(given.first, given.first + given.seeds, 5)]
    with ProcessPoolExecutor(given.processes) as pool:
        for done in as_completed([pool.submit(partial(run_seeds, chunk, given.hours)) for chunk in chunks]):
            total.add(done.result())
            for failure in done.result().failed:
                print(failure, end="\n\n", flush=True)
            if total.failed and given.first_failure:
                pool.shutdown(cancel_futures=True)
                return 1
    empty, _ = coverage(total.met)
    print(shown(total))
    print(f"{total.seeds:,} seeds, {total.hours / 24:,.0f} simulated days, {len(total.failed)} failed; {dict(total.statistics)}")
    return 1 if total.failed else FEW if empty else 0


if __name__ == "__main__":
    sys.exit(main())

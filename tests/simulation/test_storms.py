"""Safety and liveness by seed. A failing seed prints the line that plays it again; `make test-long` runs a thousand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sts_manager.domain.model import JobStatus
from tests.simulation.__main__ import Sum, run_seeds, shown
from tests.simulation.invariants import FAULTS, coverage
from tests.simulation.world import World

SEEDS, AT_ONCE, HOURS = 30, 10, 2.0
RARE_MAX = 5
"""So many pairs of a fault and a status other than `paused` may not come about. Of a thousand seeds none may be empty."""


@pytest.fixture(scope="module")
def total() -> Sum:
    return Sum()


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_invariant_holds_and_every_prefix_ends_once_faults_stop(first: int, total: Sum) -> None:
    found = run_seeds(range(first, first + AT_ONCE), HOURS)
    total.add(found)
    assert not found.failed, "\n\n".join(found.failed)


def test_each_fault_was_met_in_each_status(total: Sum) -> None:
    """The simulation proves nothing of what never happens in it."""
    if total.seeds < SEEDS:
        pytest.skip("only with all the seeds before it")
    empty, table = coverage(total.met)
    never = [fault for fault in FAULTS if fault not in table]
    assert not never, shown(total)
    rare = [cell for cell in empty if not cell.endswith(JobStatus.PAUSED)]
    assert len(rare) <= RARE_MAX, shown(total)
    assert total.statistics["takeovers"] > 2 * SEEDS, "the lease changes hands"


def test_a_seed_takes_the_same_course_again(tmp_path: Path) -> None:
    """Also in another interpreter, whose sets have another order."""
    told = World(7, tmp_path, 2.0).run().chance.told
    assert len(told) > 100
    program = (
        "import tempfile, pathlib, logging; from tests.simulation.world import World; logging.disable(50); "
        "f = tempfile.mkdtemp(); print('\\n'.join(World(7, pathlib.Path(f), 2.0).run().chance.told))"
    )
    again = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=True
    )
    assert again.stdout.splitlines() == told

"""1,000,000 prefixes: loading them, and what a pass over such a table costs, beside the plain way of doing it.

The service is a stand-in that answers at once, so that the figures are this program's own. Each measurement runs in a
process of its own, so that its peak memory is its own. The peer reads the whole table into memory on each pass, as the
older tool did; the ratio says what reading only what a pass needs is worth.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sts_manager.cli.prefix_file import read_prefixes
from sts_manager.clock import SystemClock
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.model import Counters, JobStatus, OperationSnapshot, OperationState, Policy, Route, StartJob
from sts_manager.domain.names import OperationName
from sts_manager.ports import Started
from sts_manager.stores.sql.store import SqlStore, open_store

RUNNING_MAX = 200
PASSES = 8


class InstantService:
    """Starts everything at once; each look finds every operation a little further."""

    def __init__(self) -> None:
        self._looks = 0

    def start(self, order: StartJob) -> Started:
        return Started(operation_name=OperationName(f"transferOperations/{order.job_name.partition('/')[2]}"))

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        self._looks += 1
        counters = Counters(objects_found=10_000, objects_copied=self._looks, bytes_copied=self._looks << 20)
        state = OperationState.IN_PROGRESS
        return {
            name: OperationSnapshot(name=name, state=state, raw_state=state.value, counters=counters, results="{}")
            for name in names
        }

    def pause(self, name: OperationName) -> None:
        raise AssertionError(name)

    resume = pause


def load(path: Path, number: int) -> dict[str, float]:
    """Read a JSON file of prefixes and load it."""
    file = path.with_suffix(".json")
    file.write_text(json.dumps([f"data/year=2026/part={index:07}/" for index in range(number)]))
    store = open_store(f"sqlite:///{path}", create=True)
    measured = timed(lambda: store.load(read_prefixes(file).prefixes, SystemClock().now(), lambda _: None))
    store.close()
    return measured


def passes(path: Path, number: int) -> dict[str, float]:
    """Passes with 200 operations live: the dearest of them, ramp included."""
    store = open_store(f"sqlite:///{path}")
    route = InstantService()
    policy = Policy(migration=store.control().migration, route=Route.STS_S3, running_max=RUNNING_MAX)
    reconciler = Reconciler(store, {Route.STS_S3: route, Route.STS_GCS: route}, policy, SystemClock())
    worst = {"cpu_s": 0.0, "wall_s": 0.0}
    for _ in range(PASSES + 8):
        measured = timed(lambda: reconciler.run_pass(dispatch=True))
        worst = {name: max(worst[name], measured[name]) for name in worst}
    counts = store.counts()
    assert counts[JobStatus.RUNNING] == RUNNING_MAX, counts
    assert sum(counts.values()) == number
    store.close()
    return worst


def whole_table(path: Path, number: int) -> dict[str, float]:
    """The plain way, as cheap as it can be: every row into memory by the driver alone, before anything is decided."""
    connection = sqlite3.connect(path)

    def read() -> None:
        assert len(connection.execute("SELECT * FROM sts_job").fetchall()) == number

    measured = timed(read)
    connection.close()
    return measured


def all_rows(path: Path, number: int) -> dict[str, float]:
    """Every waiting row through the store, as `retry --errors` would read a table full of errors."""
    store = open_store(f"sqlite:///{path}")

    def read() -> None:
        assert sum(1 for _ in store.with_status(JobStatus.WAITING)) == number - RUNNING_MAX

    measured = timed(read)
    store.close()
    return measured


def status(path: Path, _number: int) -> dict[str, float]:
    """What the `status` command asks of such a table."""
    store: SqlStore = open_store(f"sqlite:///{path}")
    measured = timed(lambda: (store.counts(), store.totals(), store.error_groups(10), store.control()))
    store.close()
    return measured


def timed(work: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


STEPS: Mapping[str, Callable[[Path, int], dict[str, float]]] = {
    "load": load,
    "pass": passes,
    "whole table": whole_table,
    "all rows": all_rows,
    "status": status,
}


def main(number: int) -> int:
    print(f"{number:,} prefixes in SQLite, {RUNNING_MAX} operations live")
    print(f"{'step':<14}{'CPU s':>9}{'wall s':>9}{'peak MiB':>10}")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="sts-manager-bench-") as folder:
        for step in STEPS:
            command = [sys.executable, "-m", "tools.bench.million", step, f"{folder}/store.db", str(number)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            found[step] = json.loads(ran.stdout)
            one = found[step]
            print(f"{step:<14}{one['cpu_s']:>9.3f}{one['wall_s']:>9.3f}{one['peak_mib']:>10.0f}", flush=True)
    ours, plain = found["pass"], found["whole table"]
    cpu, memory = ours["cpu_s"] / plain["cpu_s"], ours["peak_mib"] / plain["peak_mib"]
    print(f"a pass costs {cpu:.3f} of the CPU of reading the whole table, and {memory:.2f} of its memory")
    good = ours["wall_s"] <= 2 and ours["peak_mib"] <= 300
    print(f"goal: a pass in <= 2 s and <= 300 MiB: {'met' if good else 'MISSED'}")
    return 0 if good else 1


def one_step(step: str, path: str, number: str) -> None:
    measured = STEPS[step](Path(path), int(number))
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main(1_000_000))
    one_step(*sys.argv[1:])

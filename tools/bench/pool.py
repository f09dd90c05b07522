"""What the queue costs: a worker of the pool beside `cdn-worker copy`, over the same objects, listings, origin and sink.

Both list, compare, fetch from nginx and write to nginx with one copying process. The pool also has its tasks and reports in a
SQLite queue, and a ledger folds them, as the daemon's does.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import JobSpec, ListTask
from cdn_worker.queues.sqlite import sqlite_queues
from sts_manager.clock import SystemClock
from sts_manager.routes.pool.controller import PoolKeeper
from sts_manager.routes.pool.ledger import PoolLedger
from tools.bench.copying import grounds as places

OBJECTS, SIZE, TURNS = 60_000, 16 << 10, 3
GOAL = 1.10
SECONDS_MAX = 300.0
JOB = "transferJobs/bench-a1"


@dataclass(frozen=True)
class Used:
    """CPU seconds of the copying program with all its processes; of the ledger's side; seconds until all was done."""

    cpu_s: float
    ledger_s: float
    wall_s: float


@contextmanager
def listing(objects: int, size: int, etag: str) -> Iterator[str]:
    """The address of the source's and the sink's listing; the sink is empty."""
    words = [sys.executable, "-m", "tools.bench.copying.synthetic", str(objects), "0", str(size), etag]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate()


def reach(ground: places.Grounds, s3: str) -> list[str]:
    words = ["--cdn-url", f"{ground.origin}/source/", "--gcs-endpoint", ground.origin, "--s3-endpoint", s3]
    return [*words, "--no-sign-request", "--processes", "1", "--connections", "32"]


def waited(process: subprocess.Popen[bytes]) -> float:
    """The CPU seconds of a process and of those it waited for. Raises RuntimeError when it failed."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def command(words: Sequence[str], folder: Path) -> Used:
    """`cdn-worker copy`."""
    began = time.perf_counter()
    copy = ["copy", "--quiet", "--source", "s3://source/", "--destination", "gs://sink/", "--verdicts", str(folder / "v.ndjson")]
    process = subprocess.Popen([sys.executable, "-m", "cdn_worker", *copy, *words], stdout=subprocess.DEVNULL)
    cpu = waited(process)
    return Used(cpu, 0.0, time.perf_counter() - began)


def pool(words: Sequence[str], folder: Path) -> Used:
    """`cdn-worker run`, and a ledger in this process."""
    address = folder / "queue.db"
    with closing(sqlite_queues(address)) as queues, closing(PoolLedger(folder / "pool.db")) as ledger:
        spec = JobSpec(job=JOB, prefix="", source_bucket="source", sink_bucket="sink")
        ledger.begin(spec, "", queues.id, SystemClock().now())
        queues.lists.publish([encoded(ListTask(spec=spec))])
        ledger.published(JOB)
        began, before = time.perf_counter(), time.process_time()
        environment = {**os.environ, "LOGLEVEL": "WARNING"}
        worker = subprocess.Popen(
            [sys.executable, "-m", "cdn_worker", "run", "--queue", f"sqlite:///{address}", *words], env=environment
        )
        over = threading.Event()
        with PoolKeeper(queues, ledger, SystemClock()):
            while not over.wait(0.05):
                job = ledger.job(JOB)
                assert job is not None
                if job.state == "over":
                    break
                if time.perf_counter() - began > SECONDS_MAX:
                    raise RuntimeError(f"it does not end: {job}")
        wall = time.perf_counter() - began
        folded = time.process_time() - before
        worker.send_signal(signal.SIGTERM)
        cpu = waited(worker)
        assert job is not None
        if not job.good or job.objects["done"] != OBJECTS:
            raise RuntimeError(f"not all of it was copied: {job}")
    return Used(cpu, folded, wall)


def main() -> int:
    why = places.available()
    if why is not None:
        print(f"\nthe pool beside the single-machine command: skipped, {why}")
        return 0
    etag = f"{places.MODIFIED:x}-{SIZE:x}"
    with listing(OBJECTS, SIZE, etag) as s3, places.grounds(objects=OBJECTS, size=SIZE, tls=False, listing=s3) as ground:
        turns: list[tuple[Used, Used]] = []
        for _ in range(TURNS):
            with tempfile.TemporaryDirectory(prefix="sts-manager-bench-") as name:
                turns.append((command(reach(ground, s3), Path(name)), pool(reach(ground, s3), Path(name))))
    alone, pooled = ([turn[side] for turn in turns] for side in (0, 1))
    print(f"\n{OBJECTS:,} x 16 KiB, plain: a worker of the pool beside `cdn-worker copy` (CPU with start-up, medians)")
    print(f"{'':<24}{'CPU s/1,000':>12}{'objects/s':>12}{'ledger, CPU s/1,000':>22}")
    for label, runs in (("cdn-worker copy", alone), ("cdn-worker run", pooled)):
        cpu, wall, ledger = (statistics.median(getattr(one, name) for one in runs) for name in ("cpu_s", "wall_s", "ledger_s"))
        print(f"{label:<24}{1000 * cpu / OBJECTS:>12.3f}{OBJECTS / wall:>12,.0f}{1000 * ledger / OBJECTS:>22.4f}")
    ratio = statistics.median(one.cpu_s for one in pooled) / statistics.median(one.cpu_s for one in alone)
    met = ratio <= GOAL
    print(f"  {'met   ' if met else 'MISSED'}  {ratio:.2f} x the CPU of the single-machine command, at most {GOAL}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

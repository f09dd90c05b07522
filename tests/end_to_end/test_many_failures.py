"""A prefix of which a million objects fail: the daemon keeps to its memory, and tells of them."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from cdn_worker.protocol.codec import decoded_task, encoded
from cdn_worker.protocol.messages import ROOT, CopyReport, Counts, Failure, JobSpec, ListReport, ListTask, Report
from cdn_worker.queues.sqlite import sqlite_queues
from sts_manager.routes.pool.controller import FAILURES_MAX
from tests.end_to_end.test_pool import Pool
from tests.proofs import sized
from tests.stages import fill
from tools.emulators.stage import Stage

MIB = 1 << 20
FAILURES_EACH = 500
"""Of a report: what a task of small objects has."""
PUBLISHED_AT_ONCE = 1000
"""More than the daemon takes at once: it finds a backlog, as one that was away does."""
PEAK_MIB_MAX = 150


def failed(spec: JobSpec, number: int) -> Iterator[Report]:
    """What workers tell of so many keys, none of which can be copied; that all is listed comes among it."""
    tasks = -(-number // FAILURES_EACH)
    mark, size = spec.mark, 1000
    for sequence in range(tasks):
        keys = range(sequence * FAILURES_EACH, min(number, (sequence + 1) * FAILURES_EACH))
        failures = tuple(
            Failure(
                key=f"{spec.prefix}year=2026/month=11/day=30/part={one:012}/{one:060x}.parquet",
                size=size,
                etag=f"{one:032x}",
                verdict="failed",
                error="exists",
                details=f"another object has its name: generation {one:016}, crc32c AAAAAA==, 1,000 bytes, " + "of " * 40,
            )
            for one in keys
        )
        counts = Counts(objects={"failed": len(failures)}, bytes={"failed": size * len(failures)})
        yield CopyReport(job=spec.job, shard=ROOT, run="r", sequence=sequence, counts=counts, failures=failures, **mark)
        if sequence == tasks // 2:
            yield ListReport(
                job=spec.job, shard=ROOT, run="r", listed=number, listed_bytes=size * number, tasks=tasks, **spec.mark
            )


def peak_of(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has ever held; 0 when it is over."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def peak_with(pool: Pool, number: int) -> int:
    """Run a daemon to its end while workers tell of so many failures; its peak."""
    peak = 0

    def watch(daemon: subprocess.Popen[str]) -> None:
        nonlocal peak
        while daemon.poll() is None:
            peak = max(peak, peak_of(daemon))
            time.sleep(0.01)

    words = ["run", *pool.flags, "--workers", "0", "--until-done"]
    with closing(sqlite_queues(pool.folder / "sts_manager_queue.db")) as queues, pool.shell.started(*words) as daemon:
        assert daemon.stderr is not None
        told: list[str] = []
        threads = [Thread(target=lambda: told.extend(daemon.stderr or ())), Thread(target=watch, args=(daemon,))]
        for one in threads:
            one.start()
        found = queues.lists.lease(1, 60.0)
        task = decoded_task(found[0].body)
        assert isinstance(task, ListTask)
        bodies: list[bytes] = []
        for report in failed(task.spec, number):
            bodies.append(encoded(report))
            if len(bodies) == PUBLISHED_AT_ONCE:
                queues.reports.publish(bodies)
                bodies.clear()
        queues.reports.publish(bodies)
        queues.lists.ack(found)
        for one in threads:
            one.join()
        assert daemon.wait() == 1, told
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no peak")
@pytest.mark.parametrize("number", sized([5_000], [100, 1_000_000]))
def test_what_fails_in_great_numbers_is_told_in_little_memory(stage: Stage, tmp_path: Path, number: int) -> None:
    """Reports were taken 500 at a time, however long: with a million failures the daemon came to 369 MiB."""
    fill(stage, {})
    pool = Pool(stage, tmp_path, ["a/"])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = peak_with(pool, number)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{number:,} failures: a peak of {peak / MIB:.0f} MiB, {spent:.0f} s of CPU time")
    assert pool.rows("prefix, status, error_code, objects_failed") == {"a/": ("error", "EXISTS", number)}
    status = pool.shell.run("status")
    assert (status.code, f"{number:,}" in status.out) == (0, True), status
    shown = pool.shell.run("failures", "a/")
    assert (shown.code, "exists" in shown.out) == (0, True), shown.err
    told = json.loads(pool.shell.run("failures", "--json", "--limit", str(number)).out)
    assert len(told) == min(number, FAILURES_MAX)
    assert 0 < peak <= PEAK_MIB_MAX * MIB

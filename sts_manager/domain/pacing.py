"""How many more prefixes may start, how long a retry waits, and when a running prefix counts as stalled."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sts_manager.domain.model import Counters, JobStatus, PrefixJob, Route

WAIT_MAX = timedelta(hours=25)
"""No try is put off for longer (a day's quota is the longest wait)."""


def is_due(not_before: datetime | None, now: datetime) -> bool:
    """Whether a time has come. One too far off was written by a clock that has since been set back: it holds nothing up."""
    return not_before is None or not_before <= now or not_before > now + WAIT_MAX


def ramp_room(running: int, ended_well: int, running_max: int) -> int:
    """How many may start now: 1 when nothing runs, else as many as double what runs, up to the maximum.

    `ended_well` counts the operations that ended well since the last dispatch as still running. Without it a migration
    of small prefixes, each done within one interval, would start one prefix an interval for ever (ADR 0004).
    """
    carried = running + ended_well
    target = min(running_max, 2 * carried if carried else 1)
    return max(0, target - running)


def jitter(key: str) -> float:
    """A fixed number in [0.5, 1) for a key: prefixes that failed together do not all come back together.

    Drawn from a hash, so that a decision stays a function of its arguments.
    """
    return 0.5 + int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**33


def backoff(key: str, tries: int, first: timedelta, longest: timedelta) -> timedelta:
    """Exponential backoff with jitter: `first` doubled for each try after the first, at most `longest`."""
    doublings = min(max(tries, 1) - 1, 30)
    return min(longest, first * float(2**doublings)) * jitter(f"{key}\0{tries}")


def is_stalled(job: PrefixJob, now: datetime, stalled_after: timedelta) -> bool:
    """Whether a running prefix's counters have not moved for `stalled_after`; those of a shared job are its lead's.

    A transfer that follows events moves when there are some.
    """
    return (
        job.status is JobStatus.RUNNING
        and job.lead is None
        and job.route is not Route.STS_FOLLOW
        and job.progress_at is not None
        and now - job.progress_at >= stalled_after
    )


def progressed(before: Counters, after: Counters) -> bool:
    """Whether anything was found or done between two looks."""
    return before != after


def advanced(before: Counters, after: Counters) -> bool:
    """Whether more is found or done at the second look, which may be older than the first."""
    return _looked_at(after) > _looked_at(before)


def _looked_at(counters: Counters) -> int:
    return (
        counters.objects_found
        + counters.objects_copied
        + counters.objects_skipped
        + counters.objects_failed
        + counters.bytes_copied
        + counters.bytes_found
    )

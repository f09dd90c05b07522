"""What failed in a day of a followed job is brought by a transfer job of its own, while following goes on.

Such a job is named after the operation in which objects failed and the number of the try, so that a crash, or a second daemon,
makes no second one. It moves what a comparison of the listings names, and where nothing can be compared the prefixes concerned.
One job is repaired at a time, for the latest operation that left objects behind: it brings what failed before, too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from sts_manager.domain.days import Days, day_of
from sts_manager.domain.errors import NameTaken, Permanent
from sts_manager.domain.model import OperationSnapshot, OperationState, PrefixJob, Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix, repair_name
from sts_manager.domain.pacing import backoff
from sts_manager.ports import Clock
from sts_manager.routes.sts.route import StsClient, begun
from sts_manager.routes.sts.spec import TransferSettings, classes_of, transfer_job

log = logging.getLogger(__name__)

WAIT_MAX = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Objects of a prefix that are not at the destination: how many, and one of them with its cause."""

    objects: int
    example: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be found out for a repair.

    name      of the transfer job that is to bring it, in try `number`
    row       whose places are meant
    failed    the operations in which objects failed, oldest first; before: the end of the last one (an object that changed
              since then is the business of the next one)
    """

    name: JobName
    number: int
    job: JobName
    row: PrefixJob
    prefixes: tuple[Prefix, ...]
    failed: tuple[OperationSnapshot, ...]
    before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a comparison found: where the names are written down (empty: they are too many), and how many of each prefix."""

    manifest: str
    behind: Mapping[Prefix, Behind]


class NotCompared(Permanent):
    """Listings cannot be compared: what is to be moved once more is all of the prefixes."""


class Comparisons(Protocol):
    """Who names the objects that a followed job left behind, and lets the job store know of them."""

    def named(self, wanted: Wanted) -> Mapping[Prefix, Behind] | None:
        """What the service itself named; None where it named only some. From now on `failures` shows what is known."""
        ...

    def compare(self, wanted: Wanted) -> Compared | None:
        """Begin a comparison, or look at it; None while it goes on. Raises NotCompared."""
        ...

    def settled(self, job: JobName, prefixes: Collection[Prefix]) -> Mapping[Prefix, Behind]:
        """Everything that was named and can travel is at the destination. What cannot is returned, and named on."""
        ...


class NothingCompared:
    """Names cannot be had."""

    def named(self, _wanted: Wanted) -> Mapping[Prefix, Behind] | None:
        return None

    def compare(self, _wanted: Wanted) -> Compared | None:
        raise NotCompared("listings are not compared here")

    def settled(self, _job: JobName, _prefixes: Collection[Prefix]) -> Mapping[Prefix, Behind]:
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the objects that failed: what each prefix's row says, and how many are left."""

    standing: Mapping[Prefix, str] = field(default_factory=dict)
    left: int = 0


class Repairs:
    """Takes one step at each call, and remembers nothing that cannot be found out again.

    tries_max     for what failed in one operation; 0: nothing is brought once more, only named
    retry_delay   before the second try; doubled for each further one
    """

    def __init__(
        self, settings: TransferSettings, comparisons: Comparisons, clock: Clock, *, tries_max: int, retry_delay: timedelta
    ) -> None:
        self._settings, self._comparisons, self._clock = settings, comparisons, clock
        self._tries_max, self._retry_delay = tries_max, retry_delay
        self._known: dict[OperationName, Known] = {}
        self._named: dict[OperationName, Mapping[Prefix, Behind] | None] = {}
        self._not_before: dict[JobName, float] = {}
        self._settled: set[OperationName] = set()

    def names(self, days: Days) -> list[JobName]:
        """All jobs that may have been made for what failed: they are asked for by name, as no page tells what a pattern is."""
        return [repair_name(days.job, one.name, number) for one in days.failing for number in range(1, self._tries_max + 1)]

    def known(self, days: Days) -> Known | None:
        """What is known of a job's failed objects; None where that has to be found out first."""
        if days.outstanding:
            return self._known.get(days.outstanding[-1].name)
        # All of it was moved once more; what is known of before that is true no longer.
        last = days.failing[-1].name if days.failing else None
        return self._known.get(last) if last in self._settled else None

    def step(self, row: PrefixJob, prefixes: tuple[Prefix, ...], days: Days, client: StsClient, *, may_start: bool) -> None:
        """Go on with what failed in a job's operations that have ended.

        row, prefixes   the row that has the job's counters, and all prefixes that follow in it
        may_start       a transfer job may be made

        Raises Retryable, Permanent, BadInput: then this step is taken again at the next call.
        """
        if not days.failing:
            return
        if not days.outstanding:
            self._settle(days.failing, days.job, prefixes)
            return
        last = days.outstanding[-1]
        if last.name in self._settled:
            return  # nothing of it that can travel is missing at the destination
        tried = days.tries(last)
        given_up = len(tried) >= self._tries_max or any(one.state is OperationState.ABORTED for one in tried.values())
        number = max(tried, default=0) + 1
        wanted = Wanted(
            name=repair_name(days.job, last.name, number),
            number=number,
            job=days.job,
            row=row,
            prefixes=prefixes,
            failed=days.outstanding,
            before=last.ended_at,
        )
        if last.name not in self._named:
            self._named[last.name] = self._comparisons.named(wanted)
        if any(one.active for one in days.repairs):
            self._tell(wanted, f"they are being moved once more (try {max(tried, default=1)} of {self._tries_max})")
        elif tried and not given_up and self._waits(wanted.name, len(tried)):
            self._tell(wanted, f"try {len(tried)} of {self._tries_max} did not bring them; there will be another one")
        else:
            self._go_on(wanted, client, given_up=given_up, may_start=may_start)

    def _go_on(self, wanted: Wanted, client: StsClient, *, given_up: bool, may_start: bool) -> None:
        concerned = self._concerned(wanted)
        gave_up = "that was given up: `sts-manager failures` names them"
        manifest = ""
        try:
            found = self._comparisons.compare(concerned)
        except NotCompared:
            if given_up:
                self._tell(wanted, gave_up)
                return
        else:
            if found is None:
                self._tell(wanted, "they are being found")
                return
            last = wanted.failed[-1].name
            if not found.behind:
                # They came to be there all the same, are gone from the source, or cannot travel.
                self._settle(wanted.failed, wanted.job, wanted.prefixes)
                return
            self._named[last], manifest = found.behind, found.manifest
            concerned = self._concerned(wanted)
            if given_up:
                self._tell(wanted, gave_up)
                return
        if not may_start:
            self._tell(wanted, "they will be moved once more")
            return
        self._begin(concerned, manifest, client)
        self._tell(wanted, "they are being moved once more")

    def _begin(self, wanted: Wanted, manifest: str, client: StsClient) -> None:
        first, *others = sorted(wanted.prefixes)
        row = wanted.row
        order = StartJob(
            prefix=first,
            attempt=row.attempt,
            job_name=wanted.name,
            route=Route.STS_FOLLOW,
            source=row.source,
            destination=row.destination,
            egress=row.egress,
            project=row.project,
            others=tuple(others),
        )
        job = transfer_job(order, self._settings, manifest)
        try:
            if begun(client, job, classes_of(job, self._settings)).adopted:
                return
        except NameTaken:
            # Made with other names by a daemon on another machine. It is this repair all the same.
            if not client.get(wanted.name).latest_operation_name:
                client.run(wanted.name)
        fields = {"job": wanted.name, "operation": wanted.failed[-1].name, "prefixes": len(wanted.prefixes)}
        log.info("followed_objects_moved_again", extra={"fields": fields})

    def _waits(self, name: JobName, tries: int) -> bool:
        now = self._clock.monotonic()
        due = self._not_before.setdefault(name, now + backoff(name, tries, self._retry_delay, WAIT_MAX).total_seconds())
        return now < due

    def _settle(self, failed: Sequence[OperationSnapshot], job: JobName, prefixes: tuple[Prefix, ...]) -> None:
        last = failed[-1].name
        if last in self._settled:
            return
        stuck = self._comparisons.settled(job, prefixes)
        self._settled.add(last)
        what = "they cannot travel as they are: `sts-manager failures` says why, and what to do"
        standing = {prefix: _says(one.objects, failed, one.example, what) for prefix, one in stuck.items()}
        self._known[last] = Known(standing=standing, left=sum(one.objects for one in stuck.values()))

    # What the rows say

    def _concerned(self, wanted: Wanted) -> Wanted:
        """The same, of just those prefixes in which objects are known to have failed."""
        named = self._named.get(wanted.failed[-1].name)
        return wanted if not named else replace(wanted, prefixes=tuple(sorted(named)))

    def _tell(self, wanted: Wanted, what: str) -> None:
        last = wanted.failed[-1].name
        named = self._named.get(last)
        if named is not None:
            standing = {prefix: _says(one.objects, wanted.failed, one.example, what) for prefix, one in named.items()}
            self._known[last] = Known(standing=standing, left=sum(one.objects for one in named.values()))
            return
        left = sum(one.counters.objects_failed for one in wanted.failed)
        number = len(wanted.prefixes)
        told = _says(left, wanted.failed, f"under one of {number:,} prefixes" if number > 1 else "", what)
        self._known[last] = Known(standing=dict.fromkeys(wanted.prefixes, told), left=left)


def _says(number: int, failed: Sequence[OperationSnapshot], example: str, what: str) -> str:
    """`3 objects of 2026-11-23 are not at the destination: …`"""
    days = sorted({day_of(one) for one in failed})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    shown = f"{example}; " if example else ""
    if not number:
        return f"objects of {when} may not be at the destination, as the transfer failed as a whole: {what}"
    objects = "1 object" if number == 1 else f"{number:,} objects"
    return f"{objects} of {when} {'is' if number == 1 else 'are'} not at the destination: {shown}{what}"

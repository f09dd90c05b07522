"""What must always hold (INVARIANTS), asked of a world after each pass; and what must be true once all has ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.model import EMPTY, JobStatus, PrefixJob, Route
from sts_manager.domain.names import Prefix, repaired_job, whole_of
from sts_manager.ports import HistoryRow
from tests.fakes.memory_store import MemoryStore
from tests.simulation.buckets import SINK
from tests.simulation.daemons import ATTEMPTS_MAX
from tests.simulation.following import FAULTS as FOLLOWED
from tests.simulation.pool_kinds import KINDS
from tests.simulation.sources import FAULTS as UNTRUE
from tests.simulation.url_lists import FAULTS as LISTED
from tools.emulators.sts.copier import Status

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass
class History:
    """The history as far as it was read: it only ever grows."""

    read: int = 0
    folded: dict[Prefix, PrefixJob] = field(default_factory=dict)
    results: dict[Prefix, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    attempts: dict[tuple[str, str], str] = field(default_factory=dict)

    def creates(self, store: MemoryStore, job: sts.TransferJob) -> None:
        """A transfer job is about to be: an intent names it, and no other one is of the same attempt at a prefix."""
        self.fold(store)
        repaired = repaired_job(job.name)
        assert (repaired or whole_of(job.name)) in self.names, f"{job.name} is created, and no intent names it"
        if repaired is not None:
            return  # named after what it repairs, and so there is one of each
        attempt = job.name.rpartition("-")[2]
        for prefix in job.transfer_spec.object_conditions.include_prefixes:
            known = self.attempts.setdefault((prefix, attempt), job.name)
            assert known == job.name, f"{prefix!r} has two jobs for attempt {attempt}: {known}, {job.name}"

    def fold(self, store: MemoryStore) -> None:
        """Each row once, generations without a gap, and none without news: a pass that finds nothing new writes nothing."""
        for event in store.events[self.read :]:
            self._take(event)
        self.read = len(store.events)

    def _take(self, event: HistoryRow) -> None:
        job = event.job
        before = self.folded.get(job.prefix)
        expected = 1 if before is None else before.generation + 1
        assert job.generation == expected, f"{job.prefix!r}: generation {job.generation} follows {expected - 1}"
        if before is not None:
            same = replace(job, generation=before.generation, last_updated=before.last_updated) == before
            told = self.results.get(job.prefix, "")
            assert not same or event.operation_results not in ("", told), f"{job.prefix!r}: a row of history without news: {job}"
        self.results[job.prefix] = event.operation_results
        self.folded[job.prefix] = job
        if job.job_name is not None:
            self.names.add(str(job.job_name))


def check(world: World) -> None:
    store = world.store
    world.history.fold(store)
    for prefix, job in store.rows.items():
        folded = world.history.folded.get(prefix)
        assert folded is None or folded == job, f"{prefix!r}: the history does not fold to its row"
        assert job.tries <= ATTEMPTS_MAX, f"{prefix!r} had {job.tries} tries"
        if job.status is JobStatus.DONE:
            # What was told to follow, and no longer is, was done before.
            assert job.operation_name is not None or job.route is Route.STS_FOLLOW
            assert job.counters.objects_failed == 0, f"{prefix!r} is done, and objects failed: {job}"
    _one_live_operation(world)
    for name, generation in world.foreign.items():
        assert world.buckets.store.get(SINK, name).generation == generation, f"{name!r} was somebody else's, and is gone"


def _one_live_operation(world: World) -> None:
    live: Counter[str] = Counter()
    for operation in world.transfers.active():
        if operation.work.events is not None or repaired_job(operation.job) is not None:
            continue  # of a followed job there are two at times, and what failed in it is brought beside
        live.update(operation.work.spec.object_conditions.include_prefixes)
    twice = [prefix for prefix, number in live.items() if number > 1]
    assert not twice, f"two live operations move {twice}"


def truth(world: World) -> None:
    """What is called done is done."""
    world.sources.truth()
    world.behind.truth()
    service = world.transfers.operations
    for job in world.store.rows.values():
        if job.status is not JobStatus.DONE:
            continue
        if job.route is Route.CDN:
            _copied(world, job)
            continue
        if job.route is Route.STS_URL_LIST:
            world.lists.check_done(job)
            continue
        if job.route is Route.STS_FOLLOW:
            continue  # what was under way at the stop is the business of a rerun, after which all is compared
        operation = service.get(str(job.operation_name))
        assert operation is None or (operation.work.status == Status.SUCCESS and not operation.work.counts.failed[0]), job


def _copied(world: World, job: PrefixJob) -> None:
    """Every object of the prefix is at the sink, byte for byte, and was counted once."""
    wanted = {key: body for key, body in world.buckets.objects.items() if key.startswith(job.prefix)}
    there = world.buckets.store.bucket(SINK).objects
    cold = sorted(world.buckets.tiered & set(wanted))
    assert not cold, f"{job.prefix!r} is called done, and {cold} cannot be read"
    wrong = [key for key, body in wanted.items() if key not in there or there[key].read() != body]
    assert not wrong, f"{job.prefix!r} is called done, and {wrong} are not there"
    counters = job.counters
    settled = counters.objects_copied + counters.objects_skipped
    assert settled == len(wanted), f"{job.prefix!r}: {settled} settled of {len(wanted)}: {counters}"
    told = job.error_code == EMPTY
    assert told is not bool(wanted), (
        f"{job.prefix!r} matches {len(wanted)} objects, and is{' ' if told else ' not '}called empty: {job}"
    )


def coverage(met: Counter[tuple[str, str]]) -> tuple[list[str], dict[str, dict[str, int]]]:
    """(cells that are empty, fault → status → how often)."""
    table: dict[str, dict[str, int]] = defaultdict(dict)
    for (fault, status), number in sorted(met.items()):
        table[fault][status] = number
    empty = [f"{fault} × {status}" for fault in FAULTS for status in JobStatus if not table.get(fault, {}).get(status.value)]
    return empty, dict(table)


FAULTS = (
    *KINDS,
    *FOLLOWED,
    *LISTED,
    *UNTRUE,
    "cancelled by command",
    "cancelled in the console",
    "cdn fault",
    "clock set",
    "frozen",
    "gcs answer lost",
    "gcs fault",
    "held",
    "hold lifted",
    "hostile message",
    "job deleted",
    "killed",
    "killed after a call",
    "killed before a call",
    "ledger away",
    "ledger's answer lost",
    "message late",
    "message twice",
    "messages reordered",
    "objects failed",
    "operation denied",
    "operation failed",
    "operation forgotten",
    "paused by command",
    "paused in the console",
    "queue away",
    "queue's answer lost",
    "rerun",
    "retried",
    "s3 fault",
    "stale read",
    "store away",
    "store's answer lost",
    "sts answer lost",
    "sts denied",
    "sts exhausted",
    "sts unavailable",
    "upload broken off",
)

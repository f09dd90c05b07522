"""The utility commands: what an operator does beside the daemon. Over the ports only; each tells what it did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from types import MappingProxyType

from sts_manager.destinations import refuse_shared_names
from sts_manager.domain.decide import launch
from sts_manager.domain.errors import BadInput, Permanent, Retryable
from sts_manager.domain.following import FOLLOWED_FAILURES
from sts_manager.domain.location import place
from sts_manager.domain.model import (
    LIVE,
    PREFIXES_OF_A_JOB_MAX,
    Chosen,
    Hold,
    JobStatus,
    OperationSnapshot,
    OperationState,
    PausedBy,
    Policy,
    PrefixJob,
    Route,
    changed,
)
from sts_manager.domain.names import JOB_NAME_STEM, OperationName, Prefix, chunks, is_ours, repaired_job, whole_of
from sts_manager.domain.names import JobName as TransferJobName
from sts_manager.ports import Batch, JobStore, Loaded, TransferJobView, TransferProject

ROWS_AT_ONCE = 1000
TRIES_TO_MARK = 5
CHANGED_MEANWHILE = "the daemon changed it this very moment; repeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one job or operation: `done` says it happened (or would, in a dry run), `why` when it did not."""

    name: str
    done: bool
    why: str = ""


def prepare(
    store: JobStore,
    prefixes: Sequence[Prefix],
    at: datetime,
    progress: Callable[[int], None],
    chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
) -> Loaded:
    """Load prefixes as waiting rows.

    Raises BadInput, and loads nothing, when one overlaps with a stored prefix, or would write the names of another row.
    """
    clashes = store.clashes(prefixes, limit=20)
    if clashes:
        lines = [f"  {clash.prefix!r} overlaps with {clash.stored!r}, which is in the table" for clash in clashes]
        raise BadInput("\n".join(["nothing was loaded: objects would be copied twice, because", *lines]))
    bound = store.control().sink
    refuse_shared_names(store, place(bound) if bound else None, prefixes, chosen)
    return store.load(prefixes, at, progress, chosen)


def pause_all(
    store: JobStore, project: TransferProject, at: datetime, *, hold: Hold | None, dry_run: bool, all_in_project: bool
) -> list[Done]:
    """Pause what runs. With `hold` nothing starts until `resume_all`; without it the daemon resumes in its next job cycle."""
    if hold is not None and not dry_run:
        store.set_hold(hold)
    found = _active(store, project, all_in_project=all_in_project)
    wanted = [seen for _, seen in found if seen.state in (OperationState.IN_PROGRESS, OperationState.QUEUED)]
    if not dry_run:
        # The wish is stored before the call, so that the daemon knows whose pause it finds.
        # A row that is paused, of an operation that runs by now, has not been looked at since somebody resumed that.
        by = PausedBy.HOLD if hold is not None else PausedBy.COMMAND
        at_work = {seen.name for seen in wanted}
        rests = {seen.name for _, seen in found if seen.state is OperationState.PAUSED}
        jobs = {_row_name(str(seen.job_name)) for seen in wanted if seen.job_name is not None}

        def mark(job: PrefixJob) -> PrefixJob | None:
            moves = job.operation_name in at_work or (job.route is Route.STS_FOLLOW and job.job_name in jobs)
            # What rests, and nobody here had asked for that: a person's pause, which no daemon has looked at yet.
            theirs = job.operation_name in rests and job.paused_by is PausedBy.NOBODY
            runs = (job.status is JobStatus.RUNNING and not theirs) or (job.status is JobStatus.PAUSED and moves)
            return replace(job, paused_by=by) if runs else None

        _mark(store, at, mark)
    return [_call(seen.name, project.pause, dry_run=dry_run) for seen in wanted]


def resume_all(store: JobStore, project: TransferProject, at: datetime, *, dry_run: bool, all_in_project: bool) -> list[Done]:
    """Lift the hold and resume every paused operation, whoever paused it: this is the command that may."""
    if not dry_run:
        store.set_hold(None)
        # What cannot be resumed right now, the daemon resumes in its next job cycle.
        _mark(store, at, lambda job: replace(job, paused_by=PausedBy.RESUME) if job.status is JobStatus.PAUSED else None)
    found = _active(store, project, all_in_project=all_in_project)
    wanted = [seen for _, seen in found if seen.state is OperationState.PAUSED]
    return [_call(seen.name, project.resume, dry_run=dry_run) for seen in wanted]


def remove_successful_one_time_jobs(
    store: JobStore, project: TransferProject, *, dry_run: bool, all_in_project: bool
) -> Iterator[Done]:
    """Delete transfer jobs that ran once and succeeded wholly. Never one that has not run, recurs, or is still needed."""
    # Every job first: what is deleted meanwhile would shift the pages. What is known of each besides is asked for in parts.
    for some in chunks([job for job in project.transfer_jobs() if all_in_project or is_ours(job.name)], ROWS_AT_ONCE):
        yield from _remove_some(store, project, some, dry_run=dry_run, all_in_project=all_in_project)


def _remove_some(
    store: JobStore, project: TransferProject, jobs: Sequence[TransferJobView], *, dry_run: bool, all_in_project: bool
) -> Iterator[Done]:
    latest = project.operations([job.latest_operation for job in jobs if job.latest_operation is not None])
    names = {_row_name(job.name) for job in jobs if is_ours(job.name)}
    rows = store.jobs_named(names)
    for job in jobs:
        row = rows.get(_row_name(job.name)) if is_ours(job.name) else None
        why = _kept_because(job, latest, row, all_in_project=all_in_project)
        if why:
            yield Done(name=job.name, done=False, why=why)
        else:
            yield _call(job.name, project.delete_job, dry_run=dry_run)


def _row_name(name: str) -> TransferJobName:
    """The transfer job that a row names, of which one of ours is a part, or which it repairs."""
    return repaired_job(name) or TransferJobName(whole_of(name))


def _kept_because(
    job: TransferJobView,
    latest: Mapping[OperationName, OperationSnapshot],
    row: PrefixJob | None,
    *,
    all_in_project: bool,
) -> str:
    if not job.one_time:
        return "it recurs"
    if job.latest_operation is None:
        return "it never ran"
    seen = latest.get(job.latest_operation)
    if seen is None:
        return f"its operation {job.latest_operation} is not known any more"
    if seen.state is not OperationState.SUCCESS or seen.counters.objects_failed:
        return f"its last run is {seen.raw_state} with {seen.counters.objects_failed:,} failed objects"
    if row is None and not all_in_project:
        return "no row of this store belongs to it"
    if row is not None and row.status is not JobStatus.DONE:
        return f"its prefix {row.prefix!r} is {row.status.value}; the daemon still needs it"
    return ""


def retry(store: JobStore, wanted: Sequence[Prefix], at: datetime) -> list[Done]:
    """Let prefixes that ended in error (or wait for a later try) start again, with a fresh count of attempts."""
    return _change_each(store, wanted, at, (JobStatus.ERROR, JobStatus.WAITING), _fresh)


def retry_errors(store: JobStore, at: datetime, *, code: str | None) -> Iterator[Done]:
    """`retry` for every prefix in error, or for those with one error code."""
    rows = (job for job in store.with_status(JobStatus.ERROR) if code is None or job.error_code == code)
    return _change_all(store, rows, at, _fresh)


def rerun(store: JobStore, wanted: Sequence[Prefix], at: datetime) -> list[Done]:
    """Let prefixes that are done go again: only what is new or has changed since is transferred."""
    return _change_each(store, wanted, at, (JobStatus.DONE,), _fresh)


def rerun_all(store: JobStore, at: datetime) -> Iterator[Done]:
    """`rerun` for every prefix that is done."""
    return _change_all(store, store.with_status(JobStatus.DONE), at, _fresh)


def follow(
    store: JobStore, project: TransferProject, wanted: Sequence[Prefix] | None, at: datetime, *, queue: str = ""
) -> list[Done]:
    """Let prefixes that are done (None: all of them) follow what changes at the source, in one transfer job.

    queue   the ARN of the event queue, where it is known here

    Intents are written here and carried out by the daemon. Raises BadInput where they do not fit into one job, where some follow,
    or where a transfer job still listens: to the queue, or made for prefixes of this store, whatever became of their rows.
    """
    following = [job for job in store.live() if job.route is Route.STS_FOLLOW]
    if following:
        raise BadInput(
            f"{len(following):,} prefixes follow already, {following[0].prefix!r} among them: one queue serves one transfer job; "
            "`follow --stop` first"
        )
    _refuse_a_second(store, project, queue)
    rows = {job.prefix: job for job in store.with_status(JobStatus.DONE) if wanted is None or job.prefix in wanted}
    missing = [
        Done(name=prefix, done=False, why="it is not done, or not in the table") for prefix in wanted or () if prefix not in rows
    ]
    if not rows:
        return missing
    if len(rows) > PREFIXES_OF_A_JOB_MAX:
        raise BadInput(
            f"{len(rows):,} prefixes do not fit into one transfer job, which takes {PREFIXES_OF_A_JOB_MAX:,}: name fewer"
        )
    if len({(job.source, job.destination, job.egress) for job in rows.values()}) > 1:
        raise BadInput(
            "their sources, destinations or egresses differ, and one transfer job has one of each: name prefixes alike"
        )
    # The attempt is part of the job's name, so it is one for all.
    latest = max(job.attempt for job in rows.values())
    fresh = [replace(_fresh(job), attempt=latest, attempt_base=latest, route=Route.STS_FOLLOW) for job in rows.values()]
    policy = Policy(migration=store.control().migration, route=Route.STS_FOLLOW, prefixes_per_job=PREFIXES_OF_A_JOB_MAX)
    intents = [change.after for change in launch(fresh, policy, at).changes]
    changes = tuple(changed(rows[intent.prefix], intent, at) for intent in intents)
    stale = store.record(Batch(changes=changes, at=at))
    return missing + [
        Done(name=one.prefix, done=one.prefix not in stale, why=CHANGED_MEANWHILE if one.prefix in stale else "")
        for one in intents
    ]


def _refuse_a_second(store: JobStore, project: TransferProject, queue: str) -> None:
    """Raises BadInput where a job that is not deleted would take the events of another one."""
    stem = f"{JOB_NAME_STEM}{store.control().migration}-"
    for job in project.transfer_jobs():
        ours = job.name.startswith(stem)
        if job.event_queue and (ours or job.event_queue == queue):
            end = "`sts-manager follow --stop` ends it" if ours else f"`gcloud transfer jobs delete {job.name}` ends it"
            raise BadInput(
                f"{job.name} still listens to {job.event_queue}: two transfer jobs on one queue take each other's events, and "
                f"changes are lost. {end}; then repeat this command"
            )


def stop_following(store: JobStore, project: TransferProject, at: datetime) -> list[Done]:
    """End it: the rows have ended, and the transfer job is deleted, with the jobs that bring what failed. Safe to repeat.

    A row is done, or in error where objects of its job failed that are not known to be at the destination. Deleted is every job
    that listens and was made for this store, whatever became of its rows.

    Raises BadInput, and deletes nothing, where the daemon keeps changing the rows meanwhile.
    """
    followed = [job for job in store.live() if job.route is Route.STS_FOLLOW]
    stopped = dict.fromkeys(job.prefix for job in followed)
    # Also of a day that is not over, in which they are not named yet: counted in the row of whoever leads.
    failed = {job.job_name: job.counters.objects_failed for job in followed if job.lead is None}
    # First the rows, and all of them: the daemon must not take the deletion for somebody's cancel.
    _mark(store, at, lambda job: _no_longer_following(job, failed, at) if job.route is Route.STS_FOLLOW else None)
    out = [Done(name=prefix, done=True) for prefix in stopped]
    stem = f"{JOB_NAME_STEM}{store.control().migration}-"
    ours = [job for job in project.transfer_jobs() if job.name.startswith(stem)]
    listening = {job.name for job in ours if job.event_queue}
    repairs = {job.name for job in ours if repaired_job(job.name) is not None}
    return out + [_call(name, project.delete_job, dry_run=False) for name in sorted(listening) + sorted(repairs)]


def _no_longer_following(job: PrefixJob, failed: Mapping[TransferJobName | None, int], at: datetime) -> PrefixJob:
    code, message = "", ""
    if job.error_code == FOLLOWED_FAILURES:
        code, message = job.error_code, job.error_message
    elif number := max(failed.get(job.job_name, 0), job.counters.objects_failed):
        objects = "1 object" if number == 1 else f"{number:,} objects"
        code = FOLLOWED_FAILURES
        message = f"{objects} of {job.job_name} failed, here or under a prefix that followed in the same job: `retry` brings them"
    status = JobStatus.ERROR if code else JobStatus.DONE
    return replace(
        job, status=status, error_code=code, error_message=message, paused_by=PausedBy.NOBODY, ended_at=at, not_before=None
    )


def set_route(store: JobStore, wanted: Sequence[Prefix], route: Route | None, at: datetime) -> list[Done]:
    """Give prefixes a route of their own, or (None) the daemon's. A prefix on its way keeps the route that it is on."""
    idle = tuple(status for status in JobStatus if status not in LIVE)
    return _change_each(store, wanted, at, idle, lambda job: replace(job, route=route))


def _change_each(
    store: JobStore,
    wanted: Sequence[Prefix],
    at: datetime,
    statuses: Collection[JobStatus],
    change: Callable[[PrefixJob], PrefixJob],
) -> list[Done]:
    """Change the rows of prefixes that are in one of these statuses, one after the other."""
    out = []
    for prefix in wanted:
        job = store.job(prefix)
        if job is None:
            out.append(Done(name=prefix, done=False, why="no such prefix in the table"))
        elif job.status not in statuses:
            out.append(Done(name=prefix, done=False, why=f"it is {job.status.value}"))
        else:
            out += _change_all(store, [job], at, change)
    return out


def _change_all(
    store: JobStore, rows: Iterable[PrefixJob], at: datetime, change: Callable[[PrefixJob], PrefixJob]
) -> Iterator[Done]:
    # As they are read: there may be millions of them.
    reading = iter(rows)
    while some := list(islice(reading, ROWS_AT_ONCE)):
        stale = store.record(Batch(changes=tuple(changed(job, change(job), at) for job in some), at=at))
        for job in some:
            why = CHANGED_MEANWHILE if job.prefix in stale else ""
            yield Done(name=job.prefix, done=not why, why=why)


def cancel(store: JobStore, wanted: Sequence[Prefix], end: Callable[[OperationName], None]) -> list[Done]:
    """End the operations of prefixes; the daemon finds them cancelled, and restarts them only by command."""
    out = []
    for prefix in wanted:
        job = store.job(prefix)
        if job is not None and job.route is Route.STS_FOLLOW and job.status in LIVE:
            why = "it is followed, and an operation that is cancelled has a successor: `follow --stop` ends that"
            out.append(Done(name=prefix, done=False, why=why))
        elif job is None or job.operation_name is None or job.status not in LIVE:
            why = "no such prefix in the table" if job is None else f"it is {job.status.value}, with nothing to cancel"
            out.append(Done(name=prefix, done=False, why=why))
        else:
            done = _call(job.operation_name, end, dry_run=False)
            out.append(replace(done, name=f"{prefix} ({job.operation_name})"))
    return out


def _fresh(job: PrefixJob) -> PrefixJob:
    """Waiting again, with a fresh count of attempts. What followed goes by the daemon's route: `follow` alone makes it follow."""
    return replace(
        job,
        route=None if job.route is Route.STS_FOLLOW else job.route,
        status=JobStatus.WAITING,
        operation_name=None,
        lead=None,
        attempt_base=job.attempt,
        forgiven=0,
        not_before=None,
        error_code="",
        error_message="",
        ended_at=None,
        missing_count=0,
        missing_since=None,
    )


def _active(store: JobStore, project: TransferProject, *, all_in_project: bool) -> list[tuple[str, OperationSnapshot]]:
    """The active operations of this store's rows, or of the whole project."""
    if all_in_project:
        return list(project.active_operations(None))
    live = store.live()
    names = {str(job.job_name) for job in live if job.job_name is not None}
    if any(job.route is Route.STS_FOLLOW for job in live):
        # What failed of a followed job is brought by jobs that no row names.
        every = project.active_operations(None)
        found = [(name, seen) for name, seen in every if name in names or repaired_job(name) in names]
    else:
        found = list(project.active_operations(names))
    known = {seen.name for _, seen in found}
    # Rows taken over from the older tool may not know their job's name yet, but know the operation.
    other: list[OperationName] = [job.operation_name for job in live if job.operation_name and job.operation_name not in known]
    return found + [("", seen) for seen in project.operations(other).values() if seen.active]


def _mark(store: JobStore, at: datetime, mark: Callable[[PrefixJob], PrefixJob | None]) -> None:
    """Change live rows beside a running daemon: rows that it changes meanwhile are read and marked again."""
    only: frozenset[Prefix] | None = None
    for _ in range(TRIES_TO_MARK):
        changes = []
        for job in store.live():
            after = mark(job) if only is None or job.prefix in only else None
            if after is not None and after != job:
                changes.append(changed(job, after, at))
        only = store.record(Batch(changes=tuple(changes), at=at)) if changes else frozenset()
        if not only:
            return
    raise BadInput("the daemon keeps changing the rows; repeat the command")


def _call(name: str, call: Callable[..., None], *, dry_run: bool) -> Done:
    if dry_run:
        return Done(name=name, done=True)
    try:
        call(name)
    except (Retryable, Permanent) as error:
        return Done(name=name, done=False, why=str(error))
    return Done(name=name, done=True)

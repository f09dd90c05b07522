"""From settings to the objects of the route `sts-url-list`; none of them is made before a prefix travels that way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from cdn_worker.domain.overwrite import Replace
from cdn_worker.protocol.messages import Failure, JobSpec
from cdn_worker.protocol.url_list_jobs import Job, Kind, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.clock import SystemClock
from sts_manager.domain.errors import BadInput, Permanent, Retryable, StoreUnavailable, Throttled
from sts_manager.domain.model import (
    COUNTED_BY_SERVICE,
    Change,
    FailedObject,
    JobStatus,
    OperationSnapshot,
    PrefixJob,
    Route,
    StartJob,
)
from sts_manager.domain.names import OperationName, Prefix
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.ports import JobStore, Started
from sts_manager.routes.local.background import Keeping
from sts_manager.routes.local.lifecycle import OwnRoute
from sts_manager.routes.local.supervisor import Crew
from sts_manager.routes.pool.copy_spec import beside_store, cdn_words, pool_settings
from sts_manager.routes.pool.route import spec_of
from sts_manager.routes.sts.failure_log import LogReader
from sts_manager.routes.sts.route import StsClient, client_in
from sts_manager.routes.sts.transfer_log import LoggedFailure, LoggedFailures, read_failures
from sts_manager.routes.url_list.followed_failures import FollowedFailures, Means, tell_shared
from sts_manager.routes.url_list.missing_objects import (
    LEFT_WITHOUT_REASON,
    comparison_of,
    earlier,
    hints_of,
    is_first,
    left_behind_of,
    transfer_job_of,
)
from sts_manager.routes.url_list.route import UrlListRoute
from sts_manager.settings import Settings

log = logging.getLogger(__name__)

LAST_S = 1.0
FAILURES_MAX = 10_000
"""Of one prefix in the job store."""
TURN_S = 2.0
A_DAY = timedelta(days=1)
"""For about that long an operation of a followed job runs."""
FINDING_MAX, FINDING_WAIT = timedelta(minutes=30), timedelta(seconds=5)
NOT_BEGUN_S_MAX = 600.0
"""How long a prefix whose transfer has succeeded is not called done, as the ledger of comparisons is away."""
COMPARING_S_MAX = 600.0
"""How long whoever wants to end waits for comparisons that list nothing more."""


def list_ledger_path(settings: Settings) -> Path:
    return Path(settings.list_ledger) if settings.list_ledger else beside_store(settings, "lists")


def lister_words(settings: Settings) -> list[str]:
    """How the daemon starts its lister: what follows `cdn-worker`."""
    words = ["lists", "--ledger", str(list_ledger_path(settings)), *cdn_words(settings)]
    return [*words, "--list-rows", str(settings.url_list_rows), "--proof", settings.url_list_proof]


@dataclass(frozen=True, slots=True)
class _Parts:
    ledger: ListLedger
    route: UrlListRoute

    def busy(self) -> bool:
        return self.ledger.busy()

    def close(self) -> None:
        self.ledger.close()


class UrlLists(OwnRoute[_Parts]):
    """The route `sts-url-list`, and which objects other transfers left behind; what keeps both going while this daemon leads."""

    name, waits = "lists", "prefixes on route sts-url-list wait"

    def __init__(
        self, settings: Settings, open_store: Callable[[], JobStore], clients: Callable[[], Mapping[str, StsClient]]
    ) -> None:
        super().__init__(list_ledger_path(settings), open_store)
        self._settings, self._clients = settings, clients
        self._comparing_seen: tuple[tuple[int, int], float] = ((0, 0), 0.0)
        self._uncounted = False
        self._not_begun: dict[Prefix, tuple[PrefixJob, float]] = {}
        self.answers: ServiceAnswers | None = None  # what a probe observed of the services
        path = beside_store(settings, "failure_log")
        self._log = LogReader(path, self._read_log, self._compared, open_store, SystemClock(), most=FAILURES_MAX)

    def __enter__(self) -> Self:
        self._log.__enter__()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self._log.__exit__(kind, error, trace)  # what was found missing is known by then

    def close(self) -> None:
        super().close()
        self._log.close()

    def catch_up(self) -> None:
        """For one pass without threads: see what the service says, start what is due, tell what is over."""
        parts = self._known()
        if parts is not None:
            parts.route.advance()
            self.tell()
        self._log.catch_up()

    # What other attempts left behind

    def arriving(self, job: PrefixJob) -> bool:
        """A transfer has succeeded: have it found out what it passed over. Begun before anybody hears of it, and only once.

        Whether the prefix may be called done: while the ledger is away it waits, for ten minutes at most.
        """
        if job.route is not Route.STS_S3 or not self._settings.compare or not self._compares:
            return True
        with self._lock:
            self._begin_late()
            self._begin_comparing(job)
            waiting = self._not_begun.get(job.prefix)
        return waiting is None or SystemClock().monotonic() - waiting[1] >= NOT_BEGUN_S_MAX

    def _begin_late(self) -> None:
        """What could not be begun, as the ledger was away. In the thread that tells, too, so that it waits for nobody."""
        with self._lock:
            for job, _ in list(self._not_begun.values()):
                self._begin_comparing(job)

    def _begin_comparing(self, job: PrefixJob) -> None:
        effect = "what the service passed over of it is not known; `rerun` looks again"
        try:
            self._compare_left(job)
        except StoreUnavailable as error:
            if job.prefix not in self._not_begun:
                waits = f"it is tried again, and not called done before, for {NOT_BEGUN_S_MAX / 60:g} minutes at most"
                fields = {"prefix": job.prefix, "cause": str(error), "effect": waits}
                log.warning("prefix_not_compared_yet", extra={"fields": fields})
            since = self._not_begun.get(job.prefix, (job, SystemClock().monotonic()))[1]
            self._not_begun[job.prefix] = job, since
            return
        except (BadInput, Permanent) as error:
            log.warning("prefix_not_compared", extra={"fields": {"prefix": job.prefix, "cause": str(error), "effect": effect}})
        self._not_begun.pop(job.prefix, None)

    def ended(self, change: Change) -> None:
        """An attempt has ended: find out which objects it left behind, and why; or forget what was found of an earlier one."""
        job = change.after
        try:
            if job.route not in (Route.STS_S3, Route.STS_GCS):
                return
            if job.status is JobStatus.DONE:
                self._forget(change)
                return
            if job.counters.objects_failed and job.route is Route.STS_S3 and self._finds:
                self._compare(change)
            if self._settings.sts_log_failures:
                self._log.want(change)
        except (BadInput, StoreUnavailable, Permanent) as error:
            # It costs a longer retry, and names nobody knows; nothing else.
            log.warning("failed_objects_not_found", extra={"fields": {"prefix": job.prefix, "cause": str(error)}})
        finally:
            if job.status is JobStatus.DONE and job.route is Route.STS_S3:
                self._look_behind(job)

    def _look_behind(self, job: PrefixJob) -> None:
        """The transfer succeeded, and it cannot be compared here: find out at least how much it passed over."""
        if not self._settings.compare or self._compares or job.lead is not None or self._uncounted:
            return
        try:
            self._count_left(job)
        except (BadInput, StoreUnavailable, Permanent) as error:
            effect = "what the service passed over of it is not known; `rerun` looks again"
            log.warning("prefix_not_compared", extra={"fields": {"prefix": job.prefix, "cause": str(error), "effect": effect}})

    def _forget(self, change: Change) -> None:
        job, parts = change.after, self._known()
        if parts is not None and not (job.route is Route.STS_S3 and self._settings.compare and self._compares):
            parts.ledger.forget(job.prefix)  # else that was done as its comparison began
        self._log.forget(change)
        if job.attempt > 1 and self._settings.sts_log_failures:
            self._put(job.prefix, [])

    def _put(self, prefix: Prefix, failures: list[FailedObject]) -> None:
        """From the daemon's own thread, so with a store that is opened for it."""
        with closing(self._open_store()) as store:
            store.put_failures(prefix, failures, SystemClock().now())

    @cached_property
    def _finds(self) -> bool:
        """Whether listings can be compared here; asked for, and told, once."""
        if not self._settings.sts_find_failures:
            return False
        if self._blind:
            fields = {"cause": self._blind, "effect": "each retry moves its whole prefix"}
            log.warning("failed_objects_not_found", extra={"fields": fields})
        return not self._blind

    @cached_property
    def _compares(self) -> bool:
        """Whether it can be found out here what a successful transfer passed over; asked for, and told, once."""
        if self._blind:
            fields = {
                "cause": self._blind,
                "effect": "what the service passes over is told by its own counters alone, without names",
            }
            log.warning("prefixes_not_compared", extra={"fields": fields})
        return not self._blind

    @cached_property
    def _blind(self) -> str:
        """Why listings cannot be compared on this machine; empty when they can."""
        import boto3  # noqa: PLC0415 - costs a sixth of a second, and only this asks it
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            there = boto3.Session().get_credentials() is not None
        except BotoCoreError as error:
            return f"AWS credentials: {error}"
        return "" if there else "no AWS credentials on this machine, which comparing the listings needs"

    def _compare(self, change: Change) -> None:
        job = change.after
        spec = self._spec_compared(job)
        # Whatever differs is missing: the service would have put it there, unless it was told never to overwrite.
        never = self._settings.overwrite_when == "NEVER"
        spec = replace(spec, job=comparison_of(spec.job), replace=Replace.NEVER if never else Replace.DIFFERENT)
        self._keep()
        hints = hints_of(job, change.results, spec.source_bucket)
        self._made().ledger.compare(
            spec, job.prefix, SystemClock().now(), hints, operation=str(job.operation_name or ""), project=job.project
        )

    def _compare_left(self, job: PrefixJob) -> None:
        """Only what was there before the transfer began: it did not see what came since."""
        spec = self._spec_compared(job)
        ends = [one for one in (self._settings.modified_before, job.started_at) if one is not None]
        before = min(ends).isoformat() if ends else ""
        spec = replace(spec, job=left_behind_of(spec.job, job.prefix), replace=Replace.DIFFERENT, before=before)
        self._keep()
        ledger = self._made().ledger
        if ledger.job(spec.job) is not None:
            return  # begun by a pass that could not be committed
        ledger.forget(job.prefix)
        ledger.compare(spec, job.prefix, SystemClock().now(), LEFT_WITHOUT_REASON, project=job.project, kind=Kind.LEFT_BEHIND)

    def _spec_compared(self, job: PrefixJob) -> JobSpec:
        assert job.job_name is not None
        order = StartJob(
            prefix=job.prefix,
            attempt=job.attempt,
            job_name=job.job_name,
            route=Route.STS_S3,
            source=job.source,
            destination=job.destination,
        )
        return spec_of(order, pool_settings(self._settings, order, Route.STS_S3))

    def _count_left(self, job: PrefixJob) -> None:
        """Nothing can be compared here: what the service counted itself is all that is known, and names are not."""
        if job.operation_name is None:
            return
        try:
            passed = client_in(self._clients(), job.project).passed_over(job.operation_name)
        except Retryable as error:
            effect = "whether the service passed over archived objects of it is not known"
            log.warning("prefix_not_compared", extra={"fields": {"prefix": job.prefix, "cause": str(error), "effect": effect}})
            return
        except Permanent as error:
            self._uncounted = True  # once is enough: it is the same for every prefix
            log.warning("prefixes_not_compared", extra={"fields": {"cause": str(error), "effect": "nor are they counted"}})
            return
        number = passed.glacier + passed.deep_archive
        if not number:
            if job.attempt > 1:
                self._put(job.prefix, [])
            return
        told = (
            f"the service passed over {passed.glacier:,} GLACIER and {passed.deep_archive:,} DEEP_ARCHIVE objects, by its own "
            "count, in the transfer job of this prefix; their names can be found where AWS credentials are"
        )
        log.warning("objects_left_behind", extra={"fields": {"prefix": job.prefix, "objects": number, "cause": told}})
        found = FailedObject(
            prefix=job.prefix,
            key=str(job.prefix),
            size=0,
            etag="",
            verdict="unmappable",
            error=COUNTED_BY_SERVICE,
            details=told,
            job_name=str(job.job_name),
        )
        self._put(job.prefix, [found])

    def uncompared(self) -> tuple[int, str]:
        """(prefixes that are done and were not compared, though they were to be; why, of one of them)."""
        parts = self._known()
        number, why = (0, "") if parts is None else parts.ledger.uncompared()
        return number + len(self._not_begun), why or ("the ledger of comparisons is away" if self._not_begun else "")

    def comparing(self) -> bool:
        """Whether successful transfers are still being compared, and that gets on. Raises StoreUnavailable."""
        self._begin_late()
        parts = self._known()
        begun, landed = (0, 0) if parts is None else parts.ledger.comparing()
        state = (begun + len(self._not_begun), landed)
        now = SystemClock().monotonic()
        if state != self._comparing_seen[0]:
            self._comparing_seen = state, now
        return bool(state[0]) and now - self._comparing_seen[1] < COMPARING_S_MAX

    def _read_log(self, project: str, operation: OperationName, since: datetime) -> LoggedFailures:
        return read_failures(project or next(iter(self._clients())), operation, since, FAILURES_MAX)

    def _logged(self, project: str, operation: OperationSnapshot) -> Mapping[str, LoggedFailure]:
        """What the service has logged by now of an operation of a followed job, by key; nothing where it may not be read."""
        if not self._settings.sts_log_failures:
            return {}
        try:
            return self._read_log(project, operation.name, operation.started_at or SystemClock().now() - A_DAY).objects
        except (Retryable, Permanent) as error:
            effect = "each object is shown with the operation's commonest cause"
            log.warning("transfer_log_not_read", extra={"fields": {"cause": str(error), "effect": effect}})
            return {}

    def _compared(self, transfer_job: str) -> list[Failure] | None:
        """What was found missing after a transfer job, and is told; None while that is found out."""
        parts, name = self._known(), comparison_of(transfer_job)
        found = None if parts is None else parts.ledger.job(name)
        if parts is None or found is None:
            return []
        finding = found.state is State.LISTING and SystemClock().now() - found.began_at < FINDING_MAX
        if finding or any(one.name == name for one in parts.ledger.untold()):
            return None
        return parts.ledger.failures(name, FAILURES_MAX)

    def manifest(self, order: StartJob) -> str:
        """For an attempt after one that left objects behind. Raises Throttled while they are found."""
        parts = self._known()
        name = comparison_of(earlier(order.job_name, order.attempt))
        found = None if parts is None else parts.ledger.job(name)
        if parts is None or found is None:
            return ""
        if found.state is State.LISTING and SystemClock().now() - found.began_at < FINDING_MAX:
            self._keep()
            raise Throttled(f"the objects that failed under {order.prefix!r} are still being found", after=FINDING_WAIT)
        return parts.ledger.use(name, order.job_name)

    def carried(self, jobs: Collection[str]) -> Mapping[str, tuple[int, int]]:
        parts = self._known()
        return {} if parts is None else parts.ledger.carried(jobs)

    def followed(self) -> FollowedFailures:
        """What names the objects that a followed job left behind."""

        def known() -> ListLedger | None:
            parts = self._known()
            return None if parts is None else parts.ledger

        means = Means(
            finds=lambda: self._finds,
            ledger=lambda: self._made().ledger,
            known_ledger=known,
            keep=self._keep,
            logged=self._logged,
            open_store=self._open_store,
        )
        return FollowedFailures(self._settings, means, SystemClock())

    # The route

    def start(self, order: StartJob) -> Started:
        self._spec_of(order)  # before anything is made for it
        self._keep()
        return self._made().route.start(order)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        self._keep()
        return self._made().route.operations(names)

    def pause(self, name: OperationName) -> None:
        self._made().route.pause(name)

    def resume(self, name: OperationName) -> None:
        self._made().route.resume(name)

    def _spec_of(self, order: StartJob) -> JobSpec:
        if not self._settings.cdn_url:
            raise Permanent(
                f"route sts-url-list reads through a CDN: --cdn-url is missing, so {order.prefix!r} has no URLs",
                code="ROUTE_UNFIT",
            )
        if self.answers is not None and self.answers.names_unusable:
            raise Permanent(
                f"probe {self.answers.probe} found that the service calls objects of a URL list in a way that cannot be undone: "
                f"give {order.prefix!r} route cdn or sts-s3; should that have changed, `doctor --probe` tells",
                code="ROUTE_UNFIT",
            )
        return spec_of(order, pool_settings(self._settings, order, "sts-url-list"))

    def _make(self) -> _Parts:
        ledger = ListLedger(list_ledger_path(self._settings), StoreUnavailable)
        route = UrlListRoute(
            self._clients(), ledger, self._spec_of, SystemClock(), full_metadata=self._settings.url_list_metadata == "all"
        )
        return _Parts(ledger, route)

    def _keep_going(self, parts: _Parts, leading: ExitStack) -> None:
        crew = Crew(lister_words(self._settings), "what it was at is begun anew; nothing is lost")

        def tend() -> bool:
            crew.tend()
            return False

        keeping = Keeping("lists", (tend, parts.route.advance, self.tell), rest_s=min(TURN_S, self._settings.sleep_timeout))
        leading.callback(keeping.guarded, self.tell)
        leading.callback(keeping.end, LAST_S)
        leading.callback(crew.stop)
        keeping.begin()

    def tell(self) -> bool:
        """Let the job store know which objects failed. Raises StoreUnavailable."""
        self._begin_late()
        ledger = self._made().ledger
        for job in ledger.untold():
            ledger.telling(job.name)
            if job.kind is not Kind.URLS and job.error_code and not job.forgotten:
                fields = {"prefix": job.prefix, "code": job.error_code, "cause": job.error_message}
                log.warning("prefix_not_compared", extra={"fields": {**fields, "effect": "what is missing is not known by name"}})
            elif ledger.shared(job.name):
                tell_shared(ledger, job, self._own_store(), SystemClock().now())
            else:
                self._tell_failures(job)
            ledger.told(job.name)
        return False

    def _tell_failures(self, job: Job) -> None:
        prefix, ledger = Prefix(job.prefix), self._made().ledger
        known = ledger.failures(job.name, FAILURES_MAX)
        failures = [
            FailedObject(
                prefix=prefix,
                key=one.key,
                size=one.size,
                etag=one.etag,
                verdict=one.verdict,
                error=one.error,
                details=one.details,
                job_name=transfer_job_of(job.name),
            )
            for one in known
        ]
        if known or not is_first(job.name) or ledger.compared_before(job.name):
            # Else the job store has nothing to forget: a statement less for each prefix, of which BigQuery bills ten megabytes.
            row = self._own_store().job(prefix)
            if row is None or row.job_name != transfer_job_of(job.name):
                return  # it has gone on to another attempt, whose objects count
            self._own_store().put_failures(prefix, failures, SystemClock().now())
        if job.kind is Kind.LEFT_BEHIND and known:
            kinds = ", ".join(f"{error}: {number:,}" for error, number, *_ in ledger.error_counts(job.name))
            fields = {"prefix": job.prefix, "objects": job.objects["failed"], "bytes": job.bytes["failed"], "named": kinds}
            effect = f"they are not at the destination; `sts-manager failures {job.prefix}` names them, and says what to do"
            log.warning("objects_left_behind", extra={"fields": {**fields, "effect": effect}})

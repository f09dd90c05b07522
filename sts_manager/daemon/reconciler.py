"""One pass: observe, decide, commit the intent, act. The shell around `decide`; it makes no choice of its own.

What became of the actions is not written at once: the next pass observes it and records it with everything else, so that
a pass costs one write. Should this process die in between, the committed intent lets the next one find out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from sts_manager.daemon.pass_result import PassResult
from sts_manager.domain.decide import decide
from sts_manager.domain.errors import Denied, NameDeleted, Permanent, Retryable, Throttled, Unready
from sts_manager.domain.heartbeat import tally
from sts_manager.domain.model import (
    LIVE,
    Action,
    Breaker,
    Change,
    JobStarted,
    JobStatus,
    Limit,
    Note,
    Observed,
    OperationResumed,
    OperationSnapshot,
    OperationState,
    Outcome,
    PauseOperation,
    Plan,
    Policy,
    PrefixJob,
    Refusal,
    ResumeOperation,
    Route,
    Severity,
    StartJob,
    StartRefused,
    SteeringFailed,
)
from sts_manager.domain.names import JobName, OperationName, Prefix, chunks
from sts_manager.ports import (
    Batch,
    Clock,
    Control,
    JobStore,
    NoQuotas,
    PassReport,
    Quotas,
    Routes,
    Sample,
    TransferRoute,
)

log = logging.getLogger(__name__)

_In = TypeVar("_In")
_Out = TypeVar("_Out")

SAMPLES_KEPT = 30
CALLS_AT_ONCE = 8
NAMES_PER_POLL = 100


@dataclass(slots=True)
class _Seen:
    """What this process remembers between passes; all of it can be lost."""

    outcomes: list[Outcome] = field(default_factory=list)
    ended_well: Counter[Limit] = field(default_factory=Counter)
    warned: set[tuple[str, str]] = field(default_factory=set)
    live: tuple[PrefixJob, ...] = ()
    states: dict[OperationName, OperationState] = field(default_factory=dict)
    first: bool = True
    epoch: int | None = None
    progress: Sample | None = None
    pool_waits: bool = False


class Reconciler:
    """Runs passes over one store and its routes.

    policy     everything but `dispatch` and `fill`, which each pass is told
    fence      the epoch of the lease, asked for at each write; None without a lease (dry runs, tests)
    leading    whether this process may still act: it may have been frozen for so long that another one leads
    arriving   asked about each prefix that is about to be recorded as done: what has to happen then is begun before, as this
               process may die right after. While it says no, the prefix stays as it is, and all of its transfer job with it
    ended      told of each attempt of a prefix alone that has ended, once that is committed
    followed   told of the rows of each followed job that is at work, after each look at it, and whether anything may start
    quotas     what is used of the service's
    """

    def __init__(
        self,
        store: JobStore,
        routes: Routes,
        policy: Policy,
        clock: Clock,
        *,
        interval_s: float = 60.0,
        fence: Callable[[], int] | None = None,
        stopping: Callable[[], bool] = lambda: False,
        leading: Callable[[], bool] = lambda: True,
        arriving: Callable[[PrefixJob], bool] = lambda _job: True,
        ended: Callable[[Change], None] = lambda _change: None,
        followed: Callable[[Sequence[PrefixJob], bool], None] = lambda _rows, _may_start: None,
        quotas: Quotas | None = None,
    ) -> None:
        self._arriving, self._ended, self._followed = arriving, ended, followed
        self._quotas = quotas or NoQuotas()
        self._store, self._routes, self._policy, self._clock = store, routes, policy, clock
        self._interval_s, self._fence, self._stopping, self._leading = interval_s, fence, stopping, leading
        self._seen = _Seen()

    def run_pass(self, *, dispatch: bool, dry_run: bool = False, poll: bool = True) -> PassResult:
        """One pass. Raises LeaseLost, and StoreUnavailable when the store cannot be read or written: then nothing is started.

        `dispatch`: new prefixes may start and paused ones resume. Those of the worker pool may do so in any pass that looks: its
        workers would have nothing to do else (ADR 0023). `dry_run`: decide, but write and call nothing.
        `poll`: ask the service; without it only the outcomes at hand are recorded, and nothing starts.
        """
        now = self._clock.now()
        policy = replace(self._policy, dispatch=dispatch, fill=dispatch or poll)
        control = self._store.control()
        self._recall(control)
        observed, counts, unseen = self._observe(control, policy, now, poll=poll)
        plan = decide(observed, policy, now)
        if dry_run:
            return PassResult(plan=plan, counts=counts, degraded=unseen)
        plan = self._without_early(plan)
        stale = self._commit(plan, counts, control, now, unseen)
        self._seen.states = {name: known for name, known in self._seen.states.items() if name in observed.unseen}
        self._seen.states |= {name: seen.state for name, seen in observed.operations.items()}
        self._tell(plan.notes)
        leads = {change.before.lead for change in plan.changes}
        for change in plan.changes:
            over = change.before.status in LIVE and change.after.status not in LIVE
            alone = change.before.lead is None and change.before.prefix not in leads
            if over and (alone or change.after.status is JobStatus.DONE) and change.before.prefix not in stale:
                self._ended(change)
        self._remember(plan, dispatch=dispatch)
        if poll:
            self._tend_followed(may_start=control.hold is None)
        actions = [one for action in plan.actions if (one := _without(action, stale)) is not None]
        outcomes = self._act(actions)
        self._seen.outcomes += outcomes
        return PassResult(
            plan=plan,
            counts=_after(counts, plan, stale),
            stale=stale,
            degraded=unseen,
            acted=len(actions),
            outcomes=tuple(outcomes),
            progress=self._seen.progress,
            tally=tally(change for change in plan.changes if change.before.prefix not in stale),
            live_by_route=self._live_by_route(),
            followed=tuple(job for job in self._seen.live if job.route is Route.STS_FOLLOW),
            follows=policy.follows,
            quotas=self._quotas.used(),
        )

    def _without_early(self, plan: Plan) -> Plan:
        """The plan without those that may not be recorded as done yet."""
        done = [change for change in plan.changes if change.before.status in LIVE and change.after.status is JobStatus.DONE]
        early = {change.after.job_name for change in done if not self._arriving(change.after)}
        if not early:
            return plan
        held = {change.before.prefix for change in done if change.after.job_name in early}
        changes = tuple(change for change in plan.changes if change.before.prefix not in held)
        notes = tuple(note for note in plan.notes if note.prefix not in held)
        return replace(plan, changes=changes, notes=notes)

    def _tend_followed(self, *, may_start: bool) -> None:
        by_job: dict[JobName | None, list[PrefixJob]] = {}
        for job in self._seen.live:
            if job.route is Route.STS_FOLLOW and job.operation_name is not None:
                by_job.setdefault(job.job_name, []).append(job)
        _overlapping(lambda rows: self._followed(rows, may_start), list(by_job.values()))

    def _recall(self, control: Control) -> None:
        """Whoever led before used of the day's quotas, too. Asked once for each lease."""
        epoch = -1 if self._fence is None else self._fence()
        if epoch != self._seen.epoch and control.report is not None:
            self._quotas.recall(control.report.creates)
        self._seen.epoch = epoch

    def _live_by_route(self) -> dict[str, int]:
        """Live rows by route, 0 for a wired route without any."""
        return {route.value: 0 for route in self._routes} | Counter(
            (job.route or self._policy.route).value for job in self._seen.live
        )

    @property
    def pending(self) -> bool:
        """Whether outcomes wait to be recorded by the next pass."""
        return bool(self._seen.outcomes)

    def settle_outcomes(self) -> PassResult | None:
        """Record what is still pending, starting and asking nothing: the last pass before the program ends, if it needs one."""
        return self.run_pass(dispatch=False, poll=False) if self.pending else None

    # Observe

    def _observe(
        self, control: Control, policy: Policy, now: datetime, *, poll: bool
    ) -> tuple[Observed, dict[JobStatus, int], str]:
        counts = dict(self._store.counts())
        live = self._store.live()
        self._seen.live = live
        startable = self._startable(policy, now)
        wanted = [(job, name) for job, name in self._named(live) if name is not None]
        operations, unseen, why = self._poll(wanted) if poll else ({}, {name for _, name in wanted}, "")
        observed = Observed(
            live=live,
            startable=startable,
            operations=operations,
            unseen=frozenset(unseen),
            outcomes=tuple(self._seen.outcomes),
            hold=control.hold,
            breaker=self._breaker(control, now),
            ended_well=dict(self._seen.ended_well),
            projects=self._quotas.projects(),
            states=self._seen.states,
        )
        return observed, counts, why

    def _startable(self, policy: Policy, now: datetime) -> tuple[PrefixJob, ...]:
        """What may start now. Between dispatches the store is asked only where the last answer had prefixes of the pool."""
        if not (policy.dispatch or (policy.fill and self._seen.pool_waits)):
            return ()
        # Rows that are live may stop being so in this very decision: ask for as many as may run at once.
        most = {limit: policy.most_rows(limit) for limit in Limit if policy.may_begin(limit)}
        found = self._store.startable(now, most, policy.route)
        self._seen.pool_waits = any(Limit.of(job.route or policy.route) is Limit.POOL for job in found)
        return found

    def _breaker(self, control: Control, now: datetime) -> Breaker | None:
        """The stored breaker. Whoever starts this program may just have mended the cause: the first pass may probe at once."""
        if control.breaker is None or not self._seen.first:
            return control.breaker
        return replace(control.breaker, probe_at=now)

    def _named(self, jobs: Sequence[PrefixJob]) -> list[tuple[PrefixJob, OperationName | None]]:
        """Each row's operation, also where only the last pass's outcome knows it yet."""
        known = [one for one in self._seen.outcomes if isinstance(one, JobStarted)]
        started = {prefix: one.operation_name for one in known for prefix in (one.prefix, *one.others)}
        return [(job, job.operation_name or started.get(job.prefix)) for job in jobs]

    def _poll(
        self, wanted: Sequence[tuple[PrefixJob, OperationName]]
    ) -> tuple[dict[OperationName, OperationSnapshot], set[OperationName], str]:
        """Ask each route about its operations, a hundred a call, calls overlapping; what failed is unseen, not missing."""
        asked: list[tuple[TransferRoute, Sequence[OperationName]]] = []
        by_route: dict[TransferRoute, dict[OperationName, None]] = {}
        for job, name in wanted:
            by_route.setdefault(self._route(job), {})[name] = None  # once, however many prefixes share it
        for route, of_route in by_route.items():
            asked.extend((route, some) for some in chunks(list(of_route), NAMES_PER_POLL))
        found: dict[OperationName, OperationSnapshot] = {}
        unseen: set[OperationName] = set()
        why = ""

        def ask(one: tuple[TransferRoute, Sequence[OperationName]]) -> dict[OperationName, OperationSnapshot] | str:
            try:
                return dict(one[0].operations(one[1]))
            except (Retryable, Permanent) as error:
                return f"the transfer service cannot be polled: {error}"

        for (_, names), answer in zip(asked, _overlapping(ask, asked), strict=True):
            if isinstance(answer, str):
                why = answer
                unseen.update(names)
            else:
                found.update(answer)
        return found, unseen, why

    def poll_blind(self) -> None:
        """The store is away: look at what was last known to run, so that the log still tells how it goes."""
        named = self._named(self._seen.live)
        wanted = [(job, name) for job, name in named if name is not None]
        operations, unseen, _ = self._poll(wanted)
        states = Counter(seen.state.value for seen in operations.values())
        log.warning("store_unreachable_polling_on", extra={"fields": {**states, "unseen": len(unseen)}})

    def _route(self, job: PrefixJob) -> TransferRoute:
        return self._routes[job.route or self._policy.route]

    # Commit

    def _commit(
        self, plan: Plan, counts: dict[JobStatus, int], control: Control, now: datetime, unseen: str
    ) -> frozenset[Prefix]:
        """The pass's one write: rows, history, breaker and report together. A pass with no news writes nothing."""
        report = PassReport(
            at=now,
            interval_s=self._interval_s,
            running=plan.running,
            stalled=plan.stalled,
            blocked=plan.blocked,
            degraded=unseen,
            samples=self._sampled(plan, _after(counts, plan, frozenset()), control, now),
            quotas=self._quotas.used(),
            creates=self._quotas.creates(plan),
        )
        batch = Batch(
            changes=plan.changes,
            at=now,
            fence=None if self._fence is None else self._fence(),
            writes_state=True,
            breaker=plan.breaker,
            report=report,
        )
        idle = not plan.changes and not plan.actions and plan.breaker == control.breaker
        stale = frozenset[Prefix]() if idle and _same(report, control.report) else self._store.record(batch)
        for prefix in sorted(stale):
            log.info("row_changed_meanwhile", extra={"fields": {"prefix": prefix}})
        self._seen.outcomes = [outcome for outcome in self._seen.outcomes if _concerns(outcome, stale)]
        return stale

    def _sampled(self, plan: Plan, counts: dict[JobStatus, int], control: Control, now: datetime) -> tuple[Sample, ...]:
        """Cumulative progress, carried on from the last report by what this plan adds: no sum over the table."""
        samples = list(control.report.samples) if control.report is not None else []
        if samples:
            copied, objects = samples[-1].bytes_copied, samples[-1].objects_copied
        else:
            totals = self._store.totals()
            copied, objects = totals.bytes_copied, totals.objects_copied
        added = tally(plan.changes)
        copied, objects = copied + added.bytes_copied, objects + added.objects_copied
        self._seen.progress = Sample(at=now, done=counts[JobStatus.DONE], bytes_copied=copied, objects_copied=objects)
        samples.append(self._seen.progress)
        return tuple(samples[-SAMPLES_KEPT:])

    # Act

    def _act(self, actions: Sequence[Action]) -> list[Outcome]:
        outcomes = _overlapping(self._carry_out, actions)
        if actions and not self._leading():
            effect = "what was not called any more is found again by its intent, by whoever leads"
            log.warning("lease_old", extra={"fields": {"cause": "the pass took longer than the lease lasts", "effect": effect}})
        return [outcome for outcome in outcomes if outcome is not None]

    def _carry_out(self, action: Action) -> Outcome | None:
        """One action, its result as an outcome; one that is left out now is found again by its intent."""
        if self._stopping() or not self._leading():
            return None
        route = self._routes[action.route]
        match action:
            case StartJob():
                return _start(route, action)
            case PauseOperation():
                return _steer(action, "pause", route.pause)
            case ResumeOperation():
                failed = _steer(action, "resume", route.resume)
                return failed or OperationResumed(prefix=action.prefix, operation_name=action.operation_name)

    # Tell

    def _remember(self, plan: Plan, *, dispatch: bool) -> None:
        """Keep what the store will say next time, in case it cannot be asked."""
        self._seen.first = False
        self._seen.ended_well = Counter() if dispatch else self._seen.ended_well + Counter(plan.ended_well)
        rows = {job.prefix: job for job in self._seen.live} | {change.after.prefix: change.after for change in plan.changes}
        self._seen.live = tuple(job for job in rows.values() if job.status in LIVE)

    def _tell(self, notes: Iterable[Note]) -> None:
        levels = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}
        for note in notes:
            if note.event == "unknown_operation_state":
                key = (str(note.fields["operation"]), str(note.fields["state"]))
                if key in self._seen.warned:
                    continue  # once an operation and state: it may stay so for days
                self._seen.warned.add(key)
            fields = dict(note.fields) if note.prefix is None else {"prefix": note.prefix, **note.fields}
            log.log(levels[note.severity], note.event, extra={"fields": fields})


def _without(action: Action, stale: frozenset[Prefix]) -> Action | None:
    """An action without the prefixes whose rows somebody else changed; None when none is left."""
    if not isinstance(action, StartJob) or not action.others:
        return None if action.prefix in stale else action
    left = [prefix for prefix in (action.prefix, *action.others) if prefix not in stale]
    return replace(action, prefix=left[0], others=tuple(left[1:])) if left else None


def _concerns(outcome: Outcome, prefixes: frozenset[Prefix]) -> bool:
    others = outcome.others if isinstance(outcome, (JobStarted, StartRefused)) else ()
    return outcome.prefix in prefixes or any(prefix in prefixes for prefix in others)


def _same(report: PassReport, stored: PassReport | None) -> bool:
    """Whether a report says what is stored already. That the daemon lives is told by its lease, not by its report."""
    if stored is None:
        return False
    return replace(report, at=stored.at, samples=stored.samples, quotas=stored.quotas, creates=stored.creates) == stored


def _overlapping(call: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """`call` of each item, at most CALLS_AT_ONCE at a time, results in order.

    Even a single one goes to a thread: a gRPC call in the main thread would keep Python from handling signals.
    """
    if not items:
        return []
    with ThreadPoolExecutor(max_workers=min(CALLS_AT_ONCE, len(items))) as pool:
        return list(pool.map(call, items))


def _start(route: TransferRoute, action: StartJob) -> Outcome:
    def refused(refusal: Refusal, error: Retryable | Permanent) -> StartRefused:
        return StartRefused(
            prefix=action.prefix,
            attempt=action.attempt,
            refusal=refusal,
            code=error.code,
            message=str(error),
            after=getattr(error, "after", None),
            others=action.others,
            made=getattr(error, "made", False),
            again=action.again,
        )

    try:
        started = route.start(action)
    except Throttled as error:
        return refused(Refusal.THROTTLED, error)
    except Unready as error:
        return refused(Refusal.UNREADY, error)
    except Retryable as error:
        return refused(Refusal.UNCERTAIN, error)
    except Denied as error:
        return refused(Refusal.DENIED, error)
    except NameDeleted as error:
        return refused(Refusal.NAME_DELETED, error)
    except Permanent as error:
        return refused(Refusal.PERMANENT, error)
    return JobStarted(
        prefix=action.prefix,
        attempt=action.attempt,
        operation_name=started.operation_name,
        adopted=started.adopted,
        others=action.others,
    )


def _steer(action: PauseOperation | ResumeOperation, verb: str, call: Callable[[OperationName], None]) -> SteeringFailed | None:
    try:
        call(action.operation_name)
    except (Retryable, Permanent) as error:
        return SteeringFailed(prefix=action.prefix, verb=verb, code=error.code, message=str(error))
    return None


def _after(counts: dict[JobStatus, int], plan: Plan, stale: frozenset[Prefix]) -> dict[JobStatus, int]:
    """The counts once the plan's changes are in, without asking the store again."""
    after = dict(counts)
    for change in plan.changes:
        if change.before.prefix not in stale:
            after[change.before.status] -= 1
            after[change.after.status] += 1
    return after

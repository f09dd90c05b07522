"""The alert policies as data: what is watched, from when on it is wrong, and what the on-call reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sts_manager.domain.heartbeat import BREAKER, DEGRADED, ERRORS, PASS_AGE, STALLED, STATUS, UNFINISHED, Metric
from sts_manager.domain.model import JobStatus

RESOURCE = "generic_task"
RUNBOOK = "docs/operations.md"
REMEMBERED = timedelta(days=7)
"""How far back what was told last is looked for: a migration that nobody goes on with stops being missed after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One series against one bound for `lasting` (whole minutes); `over`: the alignment period."""

    metric: Metric
    says: str
    lasting: timedelta
    above: float | None = None
    below: float | None = None
    aligner: str = "ALIGN_MEAN"
    over: timedelta | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError("a condition is an upper or a lower bound")
        if self.lasting % timedelta(minutes=1):
            raise ValueError("Cloud Monitoring takes whole minutes")

    @property
    def filter(self) -> str:
        return f'metric.type = "{self.metric.type}" AND resource.type = "{RESOURCE}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A daemon that publishes no `heartbeat` any more for `lasting`, although `unfinished` was over 0 when it was last told.

    By PromQL, because an absence condition knows nothing of what was told last, and would fire at the end of each migration
    (docs/adr/0021-the-last-heartbeat.md).
    """

    unfinished: Metric
    heartbeat: Metric
    says: str
    lasting: timedelta

    def __post_init__(self) -> None:
        if self.lasting % timedelta(minutes=1) or not timedelta(0) < self.lasting < REMEMBERED:
            raise ValueError("a silence lasts whole minutes, and less than what is remembered")

    @property
    def query(self) -> str:
        """Series of the left side for which the right side has none with the same labels."""
        told = f"last_over_time({_selected(self.unfinished)}[{REMEMBERED.days}d])"
        heard = f"count_over_time({_selected(self.heartbeat)}[{self.lasting // timedelta(minutes=1)}m])"
        return f"({told} > 0) unless {heard}"


def _selected(metric: Metric) -> str:
    """A metric's series in PromQL: the first `/` becomes `:`, other special characters `_` (Mapping Cloud Monitoring metrics)."""
    domain, _, path = metric.type.partition("/")
    return f'{domain.replace(".", "_")}:{path.replace(".", "_").replace("/", "_")}{{monitored_resource="{RESOURCE}"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One policy. `key` is its user label and the anchor of its section in the runbook; all conditions must hold."""

    key: str
    title: str
    conditions: tuple[Condition | Silence, ...]
    first: str

    @property
    def advice(self) -> str:
        return f"{self.first}\n\nRunbook: {RUNBOOK}, section `{self.key}`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Did:
    """What became of a policy."""

    alert: Alert
    what: str


def alerts(*, sleep_s: float, job_interval_s: float, metrics_interval_s: float) -> tuple[Alert, ...]:
    """The policies for a daemon with these intervals (seconds)."""
    silence = max(timedelta(minutes=5), _minutes(3 * sleep_s))
    idle = max(timedelta(minutes=30), _minutes(2 * job_interval_s))
    watched = max(timedelta(minutes=15), _minutes(3 * metrics_interval_s))
    return (
        Alert(
            key="daemon-silent",
            title="sts-manager: no heartbeat",
            conditions=(Silence(unfinished=UNFINISHED, heartbeat=PASS_AGE, says="no heartbeat", lasting=silence),),
            first="The daemon has published nothing, and prefixes had not ended. Transfers that run go on; nothing new starts, "
            "nothing is retried. `sts-manager status` says who was last heard; look whether that machine and process live, and "
            "start it again. Was it stopped on purpose? Snooze this policy until it goes on.",
        ),
        Alert(
            key="stalled",
            title="sts-manager: prefixes stand still",
            conditions=(Condition(metric=STALLED, says="stalled prefixes", lasting=watched, above=0),),
            first="Running prefixes have not moved. `sts-manager query stalled` names them with their operations; look at each "
            "operation in the console (queued? throttled by the source? one huge object?).",
        ),
        Alert(
            key="errors-rising",
            title="sts-manager: prefixes end in error",
            conditions=(
                Condition(
                    metric=ERRORS,
                    says="prefixes that ended in error",
                    lasting=timedelta(0),
                    above=0,
                    aligner="ALIGN_DELTA",
                    over=timedelta(minutes=10),
                ),
            ),
            first="Prefixes have used up their attempts. `sts-manager status` groups them by code with what to do; "
            "`sts-manager query failed` has samples of the objects. Mend the cause, then `sts-manager retry --errors --code C`.",
        ),
        Alert(
            key="nothing-running",
            title="sts-manager: nothing runs while prefixes wait",
            conditions=(
                Condition(metric=STATUS[JobStatus.WAITING], says="prefixes wait", lasting=idle, above=0),
                Condition(metric=STATUS[JobStatus.RUNNING], says="none runs", lasting=idle, below=1),
            ),
            first="Work is there, and none of it moves. `sts-manager status` says why: a hold somebody forgot, an open breaker, "
            "or retries that wait for their time.",
        ),
        Alert(
            key="breaker-open",
            title="sts-manager: starting is stopped by a project-wide fault",
            conditions=(Condition(metric=BREAKER, says="breaker open", lasting=timedelta(0), above=0, aligner="ALIGN_MAX"),),
            first="A permission or a bucket is missing, so nothing starts; no attempt is lost. `sts-manager status` names it. "
            "Once it is mended the daemon goes on by itself with its next probe, or at once when it is restarted.",
        ),
        Alert(
            key="degraded",
            title="sts-manager: the job table or the service cannot be reached",
            conditions=(Condition(metric=DEGRADED, says="degraded", lasting=timedelta(minutes=5), above=0),),
            first="Transfers that run go on, nothing new starts. The log line `degraded` has the cause: BigQuery or the Storage "
            "Transfer Service away, a permission taken away, a quota used up, a full disk. It recovers by itself.",
        ),
    )


def _minutes(seconds: float) -> timedelta:
    return timedelta(minutes=-(-seconds // 60))

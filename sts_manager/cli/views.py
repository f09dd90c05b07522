"""What an operator sees: status, history, plans. Values in, text out; the commands print it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sts_manager.doctor.finding import Finding, Level
from sts_manager.domain.following import FOLLOWED_FAILURES, NO_OPERATION, QUEUE_MISSING
from sts_manager.domain.model import COUNTED_BY_SERVICE, EMPTY, Counters, FailedObject, JobStatus, Limit, Plan, StartJob
from sts_manager.logs import json_text, visible
from sts_manager.ports import Control, ErrorGroup, HistoryRow, Holder, JobStore, LeftBehind, Sample
from sts_manager.stores.lease import record_of
from sts_manager.stores.queries import Answer

STOPPED = {Limit.POOL: "in the worker pool", Limit.SERVICE: "in the transfer service"}
ADVICE: Mapping[str, str] = {
    "CDN_MISMATCH": "mend --cdn-url or the distribution, as the example says; the daemon probes again by itself",
    "POISON_TASK": "see the workers' log for why they died; then `sts-manager retry PREFIX`",
    "POISON": "workers died of these objects: see their log; then `sts-manager retry PREFIX`, which tries just these",
    "URL_LIST_NAMES": "the service names objects of a URL list in a way that cannot be undone: route cdn or sts-s3",
    "URL_LIST_REFUSED": "see what the message names; another route may carry the prefix (`sts-manager route PREFIX ROUTE`)",
    "ROUTE_UNFIT": "give the row another route (`sts-manager route PREFIX ROUTE`), or this daemon what it lacks",
    "PERMISSION_DENIED": "grant the named permission (or mend the S3 credentials); the daemon probes again by itself",
    "UNAUTHENTICATED": "mend the credentials that the message names; the daemon probes again by itself",
    "UNREACHABLE": "mend the network or the name of the host that the message names; it goes on by itself",
    "UNAVAILABLE": "a bucket's service did not answer as it should, several times; `sts-manager retry PREFIX` later",
    "NOT_FOUND": "check the named bucket or object; then `sts-manager retry --errors`",
    "SPEC_DIFFERS": "run with the settings that made the job, or delete that job and `sts-manager retry PREFIX`",
    FOLLOWED_FAILURES: "`sts-manager failures PREFIX` names them; mend the cause. After `follow --stop`, `retry` brings them",
    QUEUE_MISSING: "start the daemon with --event-queue; until then these prefixes wait to be followed",
    "QUEUE_TAKEN": "end the job that the message names, then `sts-manager retry --errors` and `follow` again",
    NO_OPERATION: "nobody follows any more: `sts-manager follow --stop`, `retry --errors`, then `follow` again",
    "CANCELLED": "somebody cancelled it; `sts-manager retry PREFIX` when it should run again",
    "RESOURCE_EXHAUSTED": "a quota of the service; the daemon waits, no attempt is lost",
    "INVALID_ARGUMENT": "the service refuses a name or a setting: see `sts-manager history PREFIX`",
    "FAILED_PRECONDITION": "a bucket: grant what the message says; objects: they changed, a retry copies them again",
    "START_UNCERTAIN": "look at the named job in the console; when it is over, or deleted, `sts-manager retry PREFIX`",
    EMPTY: "is the prefix written as the keys are? If not, load the right one; `rerun PREFIX` when objects are there; "
    "--allow-empty where it may be empty",
    "OPERATION_NOT_FOUND": "the operation is gone; the next attempt makes a new one",
}
OBJECT_ADVICE: Mapping[str, str] = {
    "archived": "restore the object in S3 (its details say how; or leave it out with a filter), then `sts-manager retry PREFIX`; "
    "`rerun PREFIX` where that is done. The transfer service takes GLACIER only with --include-storage-classes: else route cdn",
    COUNTED_BY_SERVICE: "restore them in S3, then `sts-manager rerun PREFIX`; with AWS credentials here they are found by name",
    "exists": "another object has its name: delete that, or run with --overwrite-when DIFFERENT, then `sts-manager retry PREFIX`",
    "forbidden": "may the CDN (or the AWS key) read the object? Then `sts-manager retry PREFIX`",
    "sink_forbidden": "grant the workers roles/storage.objectUser on the destination",
    "sink": "Cloud Storage refuses it as it is: see its details, mend it at the source, then `sts-manager retry PREFIX`",
    "sink_missing": "the destination bucket is not there",
    "hash_mismatch": "what was stored was not what was read, several times, and was deleted: look at the network, then retry",
    "source_changing": "it is being written at the source; `sts-manager retry PREFIX` when that is over, or `rerun` later",
    "compressed": 'turn "Compress objects automatically" off in the CDN\'s cache behaviour; then `sts-manager retry PREFIX`',
    "not_found": "the CDN has it not while S3 has it: its cache, or its origin; then `sts-manager retry PREFIX`",
    "vanished": "deleted at the source since it was listed; the next attempt lists anew",
    "name": "no such name in Cloud Storage, or by this route: see its details; rename it at the source, or give another route",
    "mismatch": "the service brought something else than was listed: did it change? Then `sts-manager retry PREFIX`",
    "permission_denied": "may the transfer service (or the CDN) read the object? Then `sts-manager retry PREFIX`",
    "not_at_destination": "it was passed over, or deleted at the destination since; `sts-manager rerun PREFIX` goes once more",
    "not_transferred": "the service gave no reason; `sts-manager retry PREFIX` tries just the failed objects",
    "failed_precondition": "it changed while it was copied; `sts-manager retry PREFIX` tries just the failed objects",
    "unavailable": "source or sink did not answer; `sts-manager retry PREFIX` tries just the failed objects",
    "same_path": "two keys have one path after --cdn-substitute: mend the substitutions",
    "metadata_too_large": "its metadata is larger than Cloud Storage takes: shorten it at the source",
    "too_large": "larger than 5 TiB: Cloud Storage does not take it",
    "poison": "workers died of it: see their log, then `sts-manager retry PREFIX`, which tries just the failed objects",
    "process_died": "a copying process died of it several times: see the workers' log",
}
OTHERWISE = "see `sts-manager history PREFIX`"
RETRY_FAILED = "see its details; `sts-manager retry PREFIX` tries just the failed objects"
LEFT_BEHIND_SHOWN, NAMED_MAX = 10, 10_000
"""Prefixes that `status` names for what they left behind; objects of one that the store keeps, at most."""
FORMULAS = ("=", "+", "-", "@")
DAY_S = 86_400.0
RATE_OVER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything `status` shows."""

    at: datetime
    counts: Mapping[JobStatus, int]
    totals: Counters
    control: Control
    holder: Holder | None
    released: bool
    errors: tuple[ErrorGroup, ...]
    stalled: int
    left_behind: tuple[LeftBehind, ...] = ()


def gather(store: JobStore, now: datetime) -> Status:
    control = store.control()
    lease = store.lease_text()
    record = None if lease is None else record_of(lease)
    return Status(
        at=now,
        counts=store.counts(),
        totals=store.totals(),
        control=control,
        holder=None if record is None else record.holder(),
        released=record is not None and record.released,
        errors=store.error_groups(10),
        left_behind=store.left_behind(LEFT_BEHIND_SHOWN),
        stalled=0 if control.report is None else control.report.stalled,
    )


def health(status: Status) -> str:
    """Is it running? One sentence."""
    report, holder = status.control.report, status.holder
    if holder is None:
        return "no daemon has run on this store yet: start `sts-manager run`"
    age = status.at - holder.beaten_at
    if status.released:
        return f"not running: the last daemon ended {_ago(age)}"
    late = timedelta(seconds=max(120.0, 3 * (report.interval_s if report is not None else 0.0)))
    if age > late:
        return f"SILENT: {holder.who} was last heard {_ago(age)}; is it alive, can it reach this store?"
    if report is not None and report.degraded:
        return f"running, degraded: {report.degraded}"
    breaker = status.control.breaker
    if breaker is not None:
        where = "" if breaker.limit is None else f" {STOPPED[breaker.limit]}"
        return f"running, but nothing starts{where}: {breaker.code}: {_cut(breaker.message, 500)}"
    return f"running: {holder.who}, last heard {_ago(age)}"


def rate(samples: tuple[Sample, ...]) -> tuple[float, float, float]:
    """(bytes, objects, prefixes done) per second over the last minutes; zeros when nothing can be said."""
    if len(samples) < 2:
        return 0.0, 0.0, 0.0
    last = samples[-1]
    first = next(sample for sample in samples if last.at - sample.at <= RATE_OVER)
    if first is last:
        first = samples[-2]
    seconds = (last.at - first.at).total_seconds()
    if seconds <= 0:
        return 0.0, 0.0, 0.0
    copied, objects = last.bytes_copied - first.bytes_copied, last.objects_copied - first.objects_copied
    return copied / seconds, objects / seconds, (last.done - first.done) / seconds


def present_rate(status: Status) -> tuple[float, float, float]:
    """`rate` of the last report, zeros when that is too old to speak of the present: an idle daemon reports nothing."""
    report = status.control.report
    if report is None or not report.samples:
        return 0.0, 0.0, 0.0
    recent = max(RATE_OVER, timedelta(seconds=2 * report.interval_s))
    return rate(report.samples) if status.at - report.samples[-1].at <= recent else (0.0, 0.0, 0.0)


def eta(status: Status) -> timedelta | None:
    """When the rest is done at the present pace of prefixes; None when that is unknown."""
    left = sum(status.counts[one] for one in (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.PAUSED))
    pace = present_rate(status)[2]
    return timedelta(seconds=round(left / pace)) if pace > 0 and left else None


def pace(status: Status) -> str:
    """How fast it goes and how long it will take, in one line."""
    left = sum(status.counts[one] for one in (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.PAUSED))
    if not left:
        return "every prefix has ended" if any(status.counts.values()) else "the table holds no prefixes yet"
    bytes_s, objects_s, _ = present_rate(status)
    until = eta(status)
    guess = f"done in about {until}" if until is not None else "no prefix was done lately, so no guess when it ends"
    return f"{human_bytes(bytes_s)}/s, {objects_s:,.1f} objects/s, {left:,} prefixes to go, {guess}"


def as_json(status: Status) -> str:
    report, control = status.control.report, status.control
    bytes_s, objects_s, prefixes_s = present_rate(status)
    left = eta(status)
    value: dict[str, Any] = {
        "at": status.at.isoformat(),
        "health": health(status),
        "counts": {one.value: number for one, number in status.counts.items()},
        "stalled": status.stalled,
        "totals": asdict(status.totals),
        "rates": {"bytes_s": round(bytes_s, 1), "objects_s": round(objects_s, 2), "prefixes_s": round(prefixes_s, 4)},
        "eta_s": None if left is None else left.total_seconds(),
        "source": control.source,
        "sink": control.sink,
        "migration": control.migration,
        "heartbeat": None if report is None else report.at.isoformat(),
        "holder": None if status.holder is None or status.released else status.holder.who,
        "hold": None
        if control.hold is None
        else {"by": control.hold.by, "at": control.hold.at.isoformat(), "reason": control.hold.reason},
        "breaker": None
        if control.breaker is None
        else {
            "code": control.breaker.code,
            "message": control.breaker.message,
            "opened_at": control.breaker.opened_at.isoformat(),
            "next_probe": control.breaker.probe_at.isoformat(),
        },
        "quotas": [] if report is None else [asdict(one) for one in report.quotas],
        "left_behind": [asdict(one) for one in status.left_behind],
        "errors": [
            {
                "status": group.status.value,
                "code": group.code,
                "prefixes": group.prefixes,
                "example": group.example,
                "message": group.message,
                "advice": advice_on(group.code),
            }
            for group in status.errors
        ],
    }
    return json_text(value, indent=2)


def quota_lines(status: Status) -> Iterator[tuple[str, bool]]:
    """(text, whether it is nearly full) of each quota of the service that the last pass had used anything of."""
    report = status.control.report
    for one in () if report is None else report.quotas:
        if one.calls and (one.seconds >= DAY_S or one.calls * 2 >= one.most):
            span = "in the last 24 hours" if one.seconds >= DAY_S else f"in {one.seconds:g} s"
            share = 100 * one.calls / one.most
            yield f"quota of {one.project}: {one.calls:,} of {one.most:,} {one.kind} calls {span} ({share:.0f} %)", share >= 80


def screen(status: Status) -> RenderableType:
    """The table of `status`."""
    control, totals = status.control, status.totals
    lines: list[RenderableType] = [plain(health(status), style="bold")]
    if control.source:
        lines.append(plain(f"{control.source} → {control.sink}   migration {control.migration}"))
    if control.hold is not None:
        hold = control.hold
        why = hold.reason or "no reason given"
        text = f"HELD by {hold.by} since {_at(hold.at)}: {why}; `sts-manager resume-all-jobs` lifts it"
        lines.append(plain(text, "yellow"))
    if control.breaker is not None:
        breaker = control.breaker
        what = "nothing new" if breaker.limit is None else f"nothing new {STOPPED[breaker.limit]}"
        text = f"BREAKER OPEN since {_at(breaker.opened_at)}, {what} starts: {breaker.code}: {breaker.message}"
        lines.append(plain(f"{text}; next probe {_at(breaker.probe_at)}", "red"))
    table = Table("status", "prefixes", title_justify="left")
    table.columns[1].justify = "right"
    for one in JobStatus:
        table.add_row(one.value, f"{status.counts[one]:,}")
    if status.stalled:
        table.add_row("(stalled)", f"{status.stalled:,}", style="yellow")
    moved = Table("", "objects", "bytes")
    for column in moved.columns[1:]:
        column.justify = "right"
    for name, objects, size in (
        ("copied", totals.objects_copied, totals.bytes_copied),
        ("already there", totals.objects_skipped, totals.bytes_skipped),
        ("failed", totals.objects_failed, totals.bytes_failed),
    ):
        moved.add_row(name, f"{objects:,}", human_bytes(size))
    lines += [table, moved]
    lines.append(plain(pace(status)))
    lines += [plain(told, "yellow" if full else "") for told, full in quota_lines(status)]
    lines += [plain(told, "yellow") for told in left_behind_lines(status)]
    if status.errors:
        lines.append(error_table(status.errors))
    return Group(*lines)


def left_behind_lines(status: Status) -> Iterator[str]:
    """A line for each prefix that is done and has objects that are not at the destination."""
    for one in status.left_behind:
        if one.counted_by_service:
            how_many = f"`sts-manager failures {one.prefix}` tells how many"
            yield f"{one.prefix} is done, but the service passed over archived objects of its transfer job: {how_many}"
            continue
        number = f"{one.objects:,}{' or more' if one.objects >= NAMED_MAX else ''}"
        known = f"{number} objects ({human_bytes(one.bytes)}) are not at the destination"
        yield f"{one.prefix} is done, but {known}: `sts-manager failures {one.prefix}` names them, and says what to do"
    if len(status.left_behind) == LEFT_BEHIND_SHOWN:
        yield "and perhaps more prefixes: `sts-manager failures` names all such objects"


def error_table(groups: Iterable[ErrorGroup]) -> Table:
    table = Table("prefixes", "status", "code", "example", "what to do", title="Errors", title_justify="left")
    for group in groups:
        advice = advice_on(group.code)
        table.add_row(
            f"{group.prefixes:,}",
            group.status.value,
            group.code,
            plain(f"{group.example}: {_cut(group.message, 300)}"),
            advice,
        )
    return table


def history_table(prefix: str, rows: Iterable[HistoryRow]) -> Table:
    table = Table(
        "time (UTC)",
        "status",
        "try",
        "copied",
        "failed",
        "what happened",
        title=plain(f"History of {prefix}"),
        title_justify="left",
    )
    for row in rows:
        job = row.job
        words = (
            f"{job.error_code}: {_cut(job.error_message, 300)}"
            if job.error_code
            else str(job.operation_name or job.job_name or "")
        )
        counters = job.counters
        table.add_row(
            _at(row.timestamp),
            job.status.value,
            str(job.attempt),
            # What prefixes share is counted once: it must not look as if nothing had been copied.
            plain(
                f"{counters.objects_copied:,} ({human_bytes(counters.bytes_copied)})" if job.lead is None else f"with {job.lead}"
            ),
            f"{counters.objects_failed:,}" if job.lead is None else "",
            plain(words),
        )
    return table


def history_json(rows: Iterable[HistoryRow]) -> str:
    out = [
        {
            "timestamp": row.timestamp.isoformat(),
            "prefix": row.job.prefix,
            "status": row.job.status.value,
            "attempt": row.job.attempt,
            "job_name": row.job.job_name,
            "operation_name": row.job.operation_name,
            "shared_with": row.job.lead,
            "error_code": row.job.error_code,
            "error_message": row.job.error_message,
            "counters": {name: getattr(row.job.counters, name) for name in row.job.counters.__slots__},
            "operation_results": json.loads(row.operation_results) if row.operation_results else None,
        }
        for row in rows
    ]
    return json_text(out, indent=2)


def plan_lines(plan: Plan) -> Iterable[str]:
    """What a dry run prints: one line a step."""
    for change in plan.changes:
        if change.before.status is not change.after.status:
            yield f"record  {change.before.status.value} → {change.after.status.value}  {change.after.prefix}"
    for action in plan.actions:
        verb = type(action).__name__
        name = action.job_name if isinstance(action, StartJob) else action.operation_name
        yield f"{verb:<16} {action.prefix}  {name}"
    if plan.blocked:
        yield f"nothing starts: {plan.blocked}"
    if not plan.changes and not plan.actions:
        yield "nothing to do"


def answer_table(answer: Answer, title: str) -> Table:
    """A query's answer."""
    table = Table(*answer.columns, title=plain(title), title_justify="left")
    for row in answer.rows:
        table.add_row(*(plain(_cut(_cell(value), 200)) for value in row))
    return table


def advice_on(code: str) -> str:
    """What to do about a prefix's error code."""
    if code not in ADVICE and code.lower() in OBJECT_ADVICE:
        return f"{OBJECT_ADVICE[code.lower()]}; `sts-manager failures PREFIX` names the objects"
    return ADVICE.get(code, OTHERWISE)


COLOURS = {Level.PASS: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}


def finding_line(one: Finding) -> RenderableType:
    """One finding of `doctor`, with the exact thing to do under it."""
    text = Text.assemble(
        (f"{one.level.value:<5}", COLOURS[one.level]), (f"{visible(one.check)}: ", "bold"), visible(one.says, keep="\n")
    )
    if one.fix and one.level is not Level.PASS:
        text.append(visible(f"\n     → {one.fix}", keep="\n"))
    return text


def findings_sum(found: Sequence[Finding]) -> str:
    counts = Counter(one.level for one in found)
    return ", ".join(f"{counts[level]:,} {level.value}" for level in Level)


def findings_json(found: Sequence[Finding]) -> str:
    return json_text([asdict(one) for one in found], indent=2)


def failures_answer(failures: Sequence[FailedObject]) -> Answer:
    """Failed objects as a table."""
    columns = ("prefix", "key", "error", "verdict", "size", "details")
    return Answer(columns, [tuple(getattr(one, name) for name in columns) for one in failures])


def advice_lines(failures: Sequence[FailedObject]) -> Iterator[str]:
    """What to do about each kind of error, commonest first."""
    for error, number in Counter(one.error for one in failures).most_common():
        yield f"{error} ({number:,}): {OBJECT_ADVICE.get(error, RETRY_FAILED)}"


def answer_csv(answer: Answer) -> Iterable[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([_csv_cell(value) for value in row] for row in answer.rows)
    return text.getvalue().splitlines()


def answer_json(answer: Answer) -> str:
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return json_text(rows, indent=2, default=_cell)


def plain(value: str, style: str = "") -> Text:
    """A text in which nothing is obeyed: neither markup nor what a key of an object may say to a terminal."""
    return Text(visible(value, keep="\n"), style)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return _at(value)
    return "" if value is None else str(value)


def _csv_cell(value: Any) -> str:
    """A spreadsheet would take what begins so for a formula: an apostrophe before it says that it is text."""
    text = visible(_cell(value))
    return f"'{text}" if text.startswith(FORMULAS) and isinstance(value, str) else text


def human_bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} PiB"


def _at(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _ago(age: timedelta) -> str:
    return f"{timedelta(seconds=max(0, round(age.total_seconds())))} ago"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

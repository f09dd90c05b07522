"""What all emulators share: settings, counts of calls, and faults on command."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_PROJECT = "stage-project"
"""The project of a suite that was told of none."""
DEFAULTS: dict[str, Any] = {
    "sts.bytes_per_second": 0,  # 0: as fast as it goes
    "sts.objects_per_second": 0,
    "sts.operations_in_progress_max": 200,
    "sts.creates_per_minute": 600,
    "sts.creates_per_day": 5000,
    "sts.reads_per_minute": 1500,
    "sts.updates_per_minute": 600,
    "sts.deletes_per_minute": 600,
    "sts.pauses_per_minute": 900,  # pause, resume and cancel of operations
    "projects.others": [],  # projects beside those the suite was started with; each has resources and quotas of its own
    "sqs.queues": {},  # ARN of a queue -> the S3 bucket whose changes are told to it
    "sts.follow_operation_seconds": 86_400,  # how long an operation of a job with an event stream takes events
    "sts.follow_gap_seconds": 0,  # from then until the next one begins: assumed
    "sts.suspend_seconds": 0.05,
    "sts.buckets_checked_at": "create",  # or "run": the operation fails instead of the create
    "sts.gcs_bucket_code": "FAILED_PRECONDITION",  # of a bucket that is missing or forbidden; or PERMISSION_DENIED, NOT_FOUND
    "sts.s3_missing_bucket_code": "PERMISSION_DENIED",  # or "NOT_FOUND": nobody could verify it
    "sts.manifest_folders": "fail",  # rows of a manifest that end in "/"; or "refuse": the operation fails, or "take"
    "sts.fill_defaults": False,  # whether a stored job shows what its options are that were left open: assumed
    "sts.failed_objects_end": "FAILED",  # or "SUCCESS": nobody could verify which the service says
    "sts.archived_tiering": "PERMISSION_DENIED",  # the error of an object in an archive tier of Intelligent-Tiering; or "skip"
    "sts.secrets": {},  # projects/{number}/secrets/{name} -> "KEY_ID:SECRET"
    "sts.role_arns": ["arn:aws:iam::123456789012:role/stage-reader"],
    "sts.url_list_names": "decoded",  # how a URL becomes a name; or "encoded", or "query": with the query string
    "sts.url_list_md5_required": "",  # rows without an MD5: taken; or "row": those fail; or "list": the operation does
    "sts.deleted_names": "kept",  # or "free": the name of a deleted job may be used again
    "sts.manifest_missing": "failed",  # or "ignored": what becomes of a manifest's name that is not there
    "logging.delay_seconds": 0.0,  # from when something is logged until it can be read: assumed
    "logging.reads_per_minute": 60,
    "s3.verify_signatures": True,
    "s3.restore_seconds": 0,  # how long RestoreObject takes
    "s3.requester_pays": [],  # buckets whose requester pays, as their configuration says it
    "bigquery.job_seconds": 0,  # how long a job says RUNNING
    "bigquery.dml_seconds": 0,  # how long a statement that changes rows takes: two that overlap conflict
    "bigquery.fail_late": 0,  # how many of the next jobs do their work and then say that they failed
    "bigquery.rows_per_page": 50_000,
    "bigquery.script_answers": True,  # whether a script's answer has the rows of its last SELECT: assumed
    "bigquery.streaming_buffer_seconds": 5400,
    "bigquery.table_operations_per_day": 1500,
    "cdn.cache_seconds": 0.0,  # how long an object is kept as it was read
    "cdn.error_page": "",  # stands in the place of every body of a 403 or 404 (CloudFront, custom error pages)
    "cdn.public": False,  # whether URLs need no signature
    "pubsub.pull_seconds": 2.0,  # how long a pull waits for a first message: assumed
    "pubsub.duplicates": 0.0,  # the share of messages that come twice
    "pubsub.reorder": False,  # whether waiting messages are shuffled before each delivery
    "pubsub.delay_seconds": 0.0,  # the longest time until a message is delivered
    "monitoring.sampling_seconds": 5,  # the least time between two points of a series
    "monitoring.fill_defaults": False,  # whether a stored alert policy spells out what the client left to the service: assumed
    "gcs.buckets": {},  # bucket -> fields of its resource: location, autoclass, softDeletePolicy, encryption, …
    "gcs.put_answer_headers": True,  # whether the answer to a PUT tells generation, size and hashes
    "gcs.session_answer_headers": False,  # whether the last answer of a session tells them in headers, too: assumed
    "gcs.policies": {},  # bucket -> bindings of its IAM policy; by default the transfer service's agent has what it needs
    "apis.disabled": [],  # services, as storagetransfer.googleapis.com
    "iam.denied": [],  # permissions, as bigquery.tables.getData
    "iam.project_policy": [],  # bindings of the project's IAM policy
}


_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")


def check_projects(names: Sequence[str]) -> tuple[str, ...]:
    """The names of projects, as Resource Manager takes them (6 to 30 small letters, digits, hyphens). Raises ValueError."""
    for name in names:
        if not _PROJECT.fullmatch(name):
            raise ValueError(
                f"{name!r} is no project's name: 6 to 30 small letters, digits and hyphens, a letter first, no hyphen last"
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the projects must be named, each once: {', '.join(names) or 'none is'}")
    return tuple(names)


class BadFault(ValueError):
    """A fault rule or a setting that the stage does not know."""


@dataclass
class Rule:
    """One fault: on which call, when, and what the caller gets.

    after     calls that pass before the first fault
    every     of the calls after that, each so-many-th meets it
    times     how often it fires (0: always)
    applied   the call takes effect and only its answer is lost
    delay_s   wait before answering
    """

    service: str
    method: str
    error: str = "UNAVAILABLE"
    message: str = "injected by the stage"
    after: int = 0
    every: int = 1
    times: int = 1
    applied: bool = False
    delay_s: float = 0.0
    seen: int = 0
    fired: int = 0

    def meets(self, service: str, method: str) -> bool:
        if self.service != service or self.method not in (method, "*"):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.seen - self.after - 1) % self.every or (self.times and self.fired >= self.times):
            return False
        self.fired += 1
        return True


@dataclass
class Ledger:
    """One for the whole stage; safe to use from any thread."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    rules: list[Rule] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    windows: dict[tuple[str, float, str], deque[float]] = field(default_factory=dict)
    permissions: Counter[str] = field(default_factory=Counter)
    log_entries: list[tuple[float, dict[str, Any]]] = field(default_factory=list)  # what was logged, and when it is to be seen
    events: dict[str, deque[str]] = field(default_factory=dict)  # keys that changed, by bucket, until somebody takes them
    clock: Callable[[], float] = time.monotonic  # by which quotas are kept
    projects: tuple[str, ...] = (DEFAULT_PROJECT,)  # with which the suite was started; the first one is for what names no project

    def count(self, service: str, method: str) -> Rule | None:
        """Count a call; returns the fault it must meet, if any."""
        with self.lock:
            self.calls[service, method] += 1
            return next((rule for rule in self.rules if rule.meets(service, method)), None)

    def setting(self, name: str) -> Any:
        with self.lock:
            return self.settings[name]

    def change(self, values: dict[str, Any]) -> None:
        unknown = sorted(set(values) - set(DEFAULTS))
        if unknown:
            raise BadFault(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(DEFAULTS))}")
        with self.lock:
            self.settings.update(values)

    def add_rule(self, values: dict[str, Any]) -> None:
        try:
            rule = Rule(**values)
        except TypeError as error:
            raise BadFault(
                f"a fault rule takes service, method, error, message, after, every, times, applied, delay_s: {error}"
            ) from error
        with self.lock:
            self.rules.append(rule)

    def knows_project(self, name: str) -> bool:
        """Whether there is such a project: one the suite was started with, or one of the setting `projects.others`."""
        with self.lock:
            return name in self.projects or name in self.settings["projects.others"]

    def permits(self, permission: str) -> bool:
        """Whether the caller has a permission; counts that it was needed."""
        with self.lock:
            self.permissions[permission] += 1
            return permission not in self.settings["iam.denied"]

    def log(self, entry: dict[str, Any]) -> None:
        """Write to Cloud Logging; it is to be seen after `logging.delay_seconds`."""
        with self.lock:
            self.log_entries.append((self.clock() + self.settings["logging.delay_seconds"], entry))

    def logged(self) -> list[dict[str, Any]]:
        """What is to be seen in Cloud Logging by now."""
        now = self.clock()
        with self.lock:
            return [entry for at, entry in self.log_entries if at <= now]

    def tell(self, bucket: str, key: str) -> None:
        """An object came to be, or changed: told where a queue is set for its bucket."""
        with self.lock:
            if bucket in self.settings["sqs.queues"].values():
                self.events.setdefault(bucket, deque()).append(key)

    def event(self, queue: str) -> str | None:
        """The next key of a queue; None when there is none now."""
        with self.lock:
            waiting = self.events.get(self.settings["sqs.queues"].get(queue, ""))
            return waiting.popleft() if waiting else None

    def grants(self, permission: str) -> bool:
        """Whether the caller has a permission, for whoever only asks."""
        with self.lock:
            return permission not in self.settings["iam.denied"]

    def within(self, quota: str, seconds: float, of: str = "") -> bool:
        """Whether one more call stays within a quota's sliding window (of one thing); counts it if so."""
        now = self.clock()
        with self.lock:
            window = self.windows.setdefault((quota, seconds, of), deque())
            while window and window[0] <= now - seconds:
                window.popleft()
            if len(window) >= self.settings[quota]:
                return False
            window.append(now)
            return True

    def report(self) -> dict[str, dict[str, int]]:
        """Calls by service and method."""
        out: dict[str, dict[str, int]] = {}
        with self.lock:
            for (service, method), number in sorted(self.calls.items()):
                out.setdefault(service, {})[method] = number
        return out

    def reset(self) -> None:
        """Forget calls, faults, quotas used and changed settings."""
        with self.lock:
            self.calls.clear()
            self.rules.clear()
            self.windows.clear()
            self.permissions.clear()
            self.events.clear()
            self.log_entries.clear()
            self.settings.clear()
            self.settings.update(DEFAULTS)

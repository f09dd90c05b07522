"""What the ledger of URL lists speaks of: jobs, their lists, the objects in them, and the states they go through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.url_list import STAGE, Naming
from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import JobSpec, ListTask

CANCELLED = "CANCELLED"
NAMES_MAX = 10_000
"""Of objects that a successful transfer left behind: the others are counted."""
COUNTS = ("listed", "skipped", "todo", "moved", "failed")
"""Objects of a listing: already there, to be transferred, under their own names; not to be had."""


class State(StrEnum):
    """Where a job is; see the ledger."""

    LISTING = "listing"
    CANARY = "canary"
    LOOKING = "looking"
    SENDING = "sending"
    MOVING = "moving"
    READY = "ready"
    OVER = "over"


class Kind(StrEnum):
    """What a job is for."""

    URLS = "urls"
    COMPARISON = "comparison"  # after a transfer that failed in part: what it did not bring, for another attempt
    LEFT_BEHIND = "left_behind"  # after one that succeeded: what it passed over without a word


class Row(NamedTuple):
    """One object that is to be transferred.

    url          without its signature, but with a '?' at its end where there will be one: lists are sorted with it
    generation   of what it may replace at the sink; 0 for nothing
    """

    url: str
    key: str
    size: int
    etag: str
    modified: str
    generation: int


class Moved(NamedTuple):
    """One object that is under its own name now, and how far that was proved."""

    row: Row
    verified: Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the service said of the objects that failed: a cause for a few of them by key, and the commonest for all others.

    Causes are pairs (error in lower case, details).
    """

    otherwise: tuple[str, str]
    by_key: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def cause(self, key: str) -> tuple[str, str]:
        return self.by_key.get(key, self.otherwise)

    def text(self) -> str:
        return json.dumps([self.otherwise, dict(self.by_key)])

    @classmethod
    def of(cls, text: str) -> Hints:
        otherwise, by_key = json.loads(text)
        return cls(otherwise=tuple(otherwise), by_key={key: tuple(cause) for key, cause in by_key.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One list, and the transfer of it.

    state       ready, started, SUCCESS, FAILED, ABORTED
    paused      it was seen paused at the service; resumable: and we may resume it, as the pause was ours or a command said so
    errors      (code, count, details)
    """

    job: str
    number: int
    rows: int
    bytes: int
    location: str
    operation: str
    state: str
    paused: bool
    resumable: bool
    copied: int
    copied_bytes: int
    missing: int
    missing_since: datetime | None
    errors: tuple[tuple[str, int, str], ...]

    @property
    def ended(self) -> bool:
        return self.state not in ("ready", "started")

    @property
    def transfer_job(self) -> str:
        return f"{self.job}-p{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt at one prefix. full_metadata: what the list loses is restored from S3, an object at a time.

    operation of the transfer that a comparison is about
    manifest  where the names of the objects that a comparison found are written down; empty where there are none
    base      what stands before the path of each key, as its host's objects are named
    counts    of objects and bytes, by COUNTS
    """

    name: str
    kind: Kind
    prefix: str
    spec: JobSpec
    manifest: str
    project: str
    operation: str
    full_metadata: bool
    state: State
    paused: bool
    cancelled: bool
    forgotten: bool
    began_at: datetime
    ended_at: datetime | None
    base: str
    naming: Naming | None
    error_code: str
    error_message: str
    objects: dict[str, int]
    bytes: dict[str, int]
    verified: dict[str, int]

    @property
    def stage(self) -> str:
        """The path in the destination bucket under which this attempt keeps its lists, and its objects land."""
        return stage_of(self.name)

    @property
    def landing(self) -> str:
        return f"{self.stage}in/"


def stage_of(job: str) -> str:
    return f"{STAGE}{job.rpartition('/')[2]}/"


def spec_text(spec: JobSpec) -> str:
    """A spec as it is recorded: the same text for the same spec."""
    return encoded(ListTask(spec=spec)).decode()

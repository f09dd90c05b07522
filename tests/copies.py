"""The real copier and engine against the stage, in this process: what the tests of the data plane share."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cdn_worker.copier.scheduler import Copier, Lane
from cdn_worker.credentials.signing_keys import signer_from_file
from cdn_worker.domain.budget import Budget
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.signing import Digest, sign_prefix
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.engine import Engine, Limits
from cdn_worker.object_copy.commands import Resume, Task, Way
from cdn_worker.ports import Access, Source
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source
from tests.stages import SINK, SOURCE, gcs_client, s3_client
from tools.emulators.cdn import KEY_PAIR_ID
from tools.emulators.stage import KEYS, Stage

BUFFER_MAX = 256 << 10
"""So that an object of a few MiB is a large one, and takes several ranges."""


def access(*, signed: bool = True, seconds: int = 0) -> Access:
    """What the stage takes. seconds: how long ago the signature was made."""
    url = f"http://{os.environ['CDN_EMULATOR_HOST']}/{SOURCE}/"
    signer = signer_from_file(Path(os.environ["CDN_PRIVATE_KEY_FILE"]), Digest.SHA1)
    now = datetime.fromtimestamp(time.time() - seconds, UTC)
    query = sign_prefix(url, key_pair_id=KEY_PAIR_ID, sign=signer, now=now).query if signed else ""
    return Access(aws=AwsKeys(KEYS.key_id, KEYS.secret), signed=query)


def s3_source() -> S3Source:
    return S3Source(os.environ["AWS_ENDPOINT_URL"], SOURCE, "us-east-1")


def cdn_source(mapping: KeyMapping | None = None) -> CdnSource:
    url = f"http://{os.environ['CDN_EMULATOR_HOST']}/{SOURCE}/"
    return CdnSource(url, mapping or KeyMapping(), s3_source(), key_pair_id=KEY_PAIR_ID)


@dataclass
class Copies:
    """One run of a copier over some tasks; `verdicts` by key, `notes` in their order."""

    way: Way
    limits: Limits = field(default_factory=lambda: Limits(rate_s=1, lane_bytes_alone=1 << 20, lane_bytes=512 << 10, connect_s=2))
    budget_bytes: int = 64 << 20
    access: Access = field(default_factory=access)
    renewed: Access | None = None
    verdicts: dict[str, KeyVerdict] = field(default_factory=dict)
    notes: list[tuple[Task, Resume]] = field(default_factory=list)
    renewals: int = 0

    def run(self, tasks: Sequence[Task], seconds: float = 60) -> Copies:
        engine = Engine(self.limits, Budget(self.budget_bytes))
        copier = Copier(engine, ended=self._ended)
        lane = copier.open(
            self.way,
            noted=lambda task, resume: self.notes.append((task, resume)),
            renew=lambda: self._renew(lane, engine),
        )
        lane.use(self.access)
        for task in tasks:
            lane.add(task)
        copier.let_in()
        until = time.monotonic() + seconds
        while not copier.idle:
            engine.turn(0.1)
            if time.monotonic() > until:
                raise AssertionError(f"it does not end; so far: {self.verdicts}")
        self.budget_left = engine.budget.taken
        self.engine_left = engine.under_way
        self.bytes_streamed = engine.bytes_read
        self.paces = {side.value: queue.pace.limit for side, queue in engine.queues.items()}
        engine.close()
        return self

    def _renew(self, lane: Lane, engine: Engine) -> None:
        self.renewals += 1
        engine.after(0, lambda: lane.use(self.renewed or self.access))

    def _ended(self, _task: Task, verdict: KeyVerdict) -> None:
        assert verdict.key not in self.verdicts, f"{verdict.key} has two verdicts"
        self.verdicts[verdict.key] = verdict


def way(source: Source | None = None, *, buffer_max: int = BUFFER_MAX, multipart_etags: bool = True) -> Way:
    sink = GcsSink(os.environ["STORAGE_EMULATOR_HOST"], SINK)
    return Way(source=source or cdn_source(), sink=sink, backoff_s=0.01, buffer_max=buffer_max, multipart_etags=multipart_etags)


def tasks_of(stage: Stage, prefix: str = "") -> list[Task]:
    """What is in the source's bucket, as its listing tells it."""
    with s3_client(stage) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=SOURCE, Prefix=prefix)
        found = [one for page in pages for one in page.get("Contents", [])]
    return [
        Task(one["Key"], one["Size"], one["ETag"].strip('"'), one["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        for one in found
    ]


def false_dones(stage: Stage, verdicts: dict[str, KeyVerdict], objects: dict[str, bytes]) -> list[str]:
    """The keys that are said to be there, and are not, or are another object."""
    with gcs_client(stage) as client:
        there = {blob.name: blob for blob in client.list_blobs(SINK)}
        wrong = []
        for key, verdict in verdicts.items():
            if verdict.error:
                continue
            blob = there.get(key)
            same = (
                blob is not None
                and blob.download_as_bytes(raw_download=True) == objects[key]
                and blob.generation == verdict.generation
            )
            if not same:
                wrong.append(key)
        return wrong

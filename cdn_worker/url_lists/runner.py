"""The data plane's half of a URL list: lists a prefix, writes the lists, looks at the canary, gives objects their own names.

Each is done in the loop of an `Engine`, for several jobs at once; what was done is committed to the ledger page by page.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from urllib.parse import urlsplit

from cdn_worker.config import Reach
from cdn_worker.domain import archive
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Verified, alike, etag_of, goog_hash
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import Filter
from cdn_worker.domain.metadata import Attributes, MetadataTooLarge, kept
from cdn_worker.domain.url_list import (
    LIST_BYTES_MAX,
    UrlList,
    UrlListFault,
    host_fault,
    naming_by,
    url_of,
)
from cdn_worker.domain.verdict import GOOD, KeyVerdict, Verdict
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine
from cdn_worker.listing.diff import Ground, Planned, Planner
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.commands import Command, Ended, Outcome, Task, Tries, Wait, Way, patient
from cdn_worker.ports import SinkObject
from cdn_worker.protocol.url_list_jobs import NAMES_MAX, Job, Kind, Moved, Row, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.storage.setup import s3_of, sink_of, source_of
from cdn_worker.url_lists.comparison import ArchiveCheck, Comparison
from cdn_worker.url_lists.folders import copy_folders
from cdn_worker.url_lists.manifest import write_manifest
from cdn_worker.url_lists.proofs import failed, misnamed, proved, unfit
from cdn_worker.url_lists.read_back import ReadBack

log = logging.getLogger(__name__)

Walk = Generator[Command, Outcome, None]
CODES = {"listing_refused": "PERMISSION_DENIED", "listing_missing": "NOT_FOUND", "sink_refused": "PERMISSION_DENIED"}
CODES |= {"sink_missing": "NOT_FOUND"}
TURN_S = 0.02
MOVES_AT_ONCE = 250
RECOGNISED_AT_ONCE = 1000
UNFIT = "ROUTE_UNFIT"
REFUSED_ALONE = "sink"
"""The code of what Cloud Storage refuses for the object's own sake: not for want of a right, or of time."""
FROM_S3_AT_ONCE = 16
"""Copies from S3 itself: each may hold a body of `copying.steps.BUFFER_MAX` in memory."""
UNPROVED = "its bytes at the destination do not have the ETag that was listed: the CDN may have had an older version"
NOT_THERE = (405, 501)
"""What a service says of a method that it does not have."""


class Proof(StrEnum):
    """What is compared of an object that landed, where its ETag is no MD5."""

    BYTES = "bytes"
    SIZE = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large one list may get.

    loopback    URLs may lead to this machine, as a stage's do
    read_back   what landed without an MD5 is read back, and compared with its ETag; else its size is all that is compared
    """

    rows: int = 100_000
    bytes: int = LIST_BYTES_MAX
    loopback: bool = False
    read_back: bool = True


class Lister:
    """One job's state at work. `ended` says when; the ledger has the next state then. Raises BadInput without credentials."""

    def __init__(self, job: Job, ledger: ListLedger, reach: Reach, engine: Engine, sizes: Sizes) -> None:
        self.job, self._ledger, self._sizes = job, ledger, sizes
        spec = job.spec
        # What a comparison is about travelled by no CDN: its keys have no paths that could collide.
        substitutions = reach.substitutions if job.kind is Kind.URLS else ()
        mapping = KeyMapping(source_root=spec.source_root, sink_root=spec.sink_root, substitutions=substitutions)
        setup = reach.setup(spec.source_bucket, spec.sink_bucket, mapping, storage_class=spec.storage_class, kms_key=spec.kms_key)
        self._mapping, self._base, self._backoff_s = mapping, setup.cdn_url, setup.backoff_s
        self._bucket, self._sink, self._source = s3_of(setup), sink_of(setup), source_of(setup)
        # Straight from S3: what is missing there must not be looked for in a cache.
        self._way = Way(source=self._bucket, sink=self._sink, mapping=mapping, backoff_s=setup.backoff_s)
        self._keyring = reach.keyring(spec.source_bucket, spec.prefix)
        self._access = self._keyring.access()
        self._player = Player(engine, renew=self._renew)
        self._from_s3 = 0
        self._read_back = ReadBack(self._bucket, self._sink, self._asked, self._backoff_s)
        self._use()
        self._planner: Planner | None = None
        compared = job.kind is not Kind.URLS
        self._comparison = Comparison(job, ledger, self._bucket, self._backoff_s) if compared else None
        self._to_list: list[str] = []
        self._over = False
        self.waits = False  # it ended for something that may pass

    @property
    def _host(self) -> str:
        return urlsplit(self._base).netloc

    def begin(self) -> None:
        match self.job.state:
            case State.LISTING if self.job.kind is Kind.URLS and (fault := self._unreachable()) is not None:
                self._fail(*fault)
            case State.LISTING:
                self._ledger.list_anew(self.job.name, self._base)
                shared = self._ledger.shared(self.job.name)
                self._to_list = [self.job.spec.source_root + prefix for prefix in shared] or [self.job.spec.prefix]
                self._list_next()
            case State.LOOKING:
                self._play(self._looked())
            case State.MOVING:
                self._play(self._moved())

    def ended(self) -> bool:
        """Whether this state has come to its end."""
        planner = self._planner
        if planner is not None and planner.idle:
            self._planner = None
            if planner.error is not None:
                self._fail(planner.error.code, str(planner.error))
            elif self._to_list:
                self._list_next()
            else:
                self._play(self._written() if self.job.kind is Kind.URLS else self._compared())
        return self._over

    def stay_signed(self) -> None:
        if self._keyring.due(self._access):
            try:
                self._access = self._keyring.access()
            except BadInput as error:
                log.warning("access_not_renewed", extra={"fields": {"job": self.job.name, "cause": str(error)}})
            self._use()

    # What all of it shares

    def _play(self, walk: Walk) -> None:
        self._player.play(self._guarded(walk), lambda _nothing: None)

    def _guarded(self, walk: Walk) -> Walk:
        try:
            yield from walk
        except Ended as end:
            self._fail(end.code, end.details)
        except (UrlListFault, ValueError) as error:
            self._fail("URL_LIST_REFUSED", str(error))
        self._over = True

    def _fail(self, code: str, why: str) -> None:
        """The job comes to nothing: what it left in the bucket is cleared up; or, where that is what fails, it is left there."""
        state = self.job.state
        self._over = True
        if code.endswith("_busy") or (state is State.MOVING and code.endswith("_refused")):
            # It may pass, or be mended: this state is begun anew. What has been transferred is not to be paid for twice.
            self.waits = True
            log.warning("lists_wait", extra={"fields": {"job": self.job.name, "state": state.value, "code": code, "cause": why}})
            return
        self._ledger.enter(self.job.name, State.MOVING, was=state, code=CODES.get(code, code), message=why)
        if state is State.MOVING:
            self._ledger.end(self.job.name, datetime.now(UTC))

    def _renew(self) -> None:
        try:
            self._access = self._keyring.renewed(self._access.version) or self._access
        except BadInput:
            return  # the old one is used on; who asked counts its tries
        self._use()
        self._player.go_on()

    def _use(self) -> None:
        for side in (self._bucket, self._source, self._sink):
            side.use(self._access)

    def _asked(self, request: Callable[[], Request], also: Sequence[int] = ()) -> Generator[Command, Outcome, Answer]:
        """A request to the sink."""
        return patient(request, Tries(self._backoff_s), self._sink.refusal, of="sink", also=also)

    def _all(self, walks: Iterable[Walk]) -> Walk:
        """Many at once, as many as the engine takes. Raises Ended when one of them was."""
        running = [0]
        trouble: list[Ended] = []

        def done(_nothing: None) -> None:
            running[0] -= 1

        for walk in walks:
            running[0] += 1
            self._player.play(_caught(walk, trouble), done)
        while running[0]:
            yield Wait(TURN_S, exact=True)
        if trouble:
            raise trouble[0]

    # The listing

    def _unreachable(self) -> tuple[str, str] | None:
        """Why the service could not, or should not, read what the lists would name: (code, text)."""
        if not self._base:
            return UNFIT, "a URL list needs the CDN before the bucket: --cdn-url names it"
        if self._sizes.loopback:
            return None
        fault = host_fault(self._base)
        if fault is None:
            try:
                found = socket.getaddrinfo(urlsplit(self._base).hostname, None)
            except OSError as error:
                return "resolver_busy", f"--cdn-url {self._base}: its host cannot be looked up: {error}"
            fault = host_fault(self._base, {str(one[4][0]) for one in found})
        return None if fault is None else (UNFIT, f"--cdn-url {self._base} will not do for a URL list: {fault}")

    def _list_next(self) -> None:
        ground = self._ground(self._to_list.pop(0))
        self._planner = Planner(self._player, ground, deliver=self._deliver, full=lambda: False, lanes=4)
        self._planner.begin()

    def _ground(self, prefix: str) -> Ground:
        spec = self.job.spec
        return Ground(
            source=self._bucket,
            bucket=self._bucket,
            sink=self._sink,
            mapping=self._mapping,
            prefix=prefix,
            filter=Filter(
                storage_classes=spec.storage_classes,
                since=datetime.fromisoformat(spec.since) if spec.since else None,
                before=datetime.fromisoformat(spec.before) if spec.before else None,
            ),
            replace=spec.replace,
            unreadable=archive.unreadable if self._comparison is None else self._comparison.unreadable,
            backoff_s=self._backoff_s,
        )

    def _deliver(self, planned: list[Planned]) -> None:
        if self._comparison is not None:
            self._comparison.deliver(planned)
            return
        rows: list[Row] = []
        verdicts: list[KeyVerdict] = []
        mark = "?" if self._access.signed else ""
        for one in planned:
            if isinstance(one, KeyVerdict):
                verdicts.append(one)
                continue
            url = self._base + self._mapping.path(one.key)
            fault = unfit(one, url, self.job.landing)
            if fault is None:
                rows.append(Row(url + mark, one.key, one.size, one.etag, one.modified, one.generation))
            else:
                verdicts.append(failed(one, *fault))
        self._ledger.found(self.job.name, rows, verdicts)

    def _written(self) -> Walk:
        """The lists, as objects in the destination bucket: first one of an object or two, the canaries."""
        name = self.job.name
        canaries = self._ledger.canaries(name)
        if canaries and (yield from self._set_apart(canaries)):
            # In an archive tier, which no listing tells: so may the others be, and one of them is not to be taken for a denial.
            yield from self._set_apart(islice(self._ledger.rows(name), NAMES_MAX))
            canaries = self._ledger.canaries(name)
        if not canaries:
            self._ledger.enter(name, State.MOVING, was=State.LISTING)  # there is nothing to transfer; an end all the same
            return
        yield from self._write_list(0, canaries)
        ahead = {row.url for row in canaries}
        number, some = 1, self._new_list()
        urls: list[str] = []
        for row in self._ledger.rows(name):
            if row.url in ahead:
                continue
            if not some.add(row.url, row.size, row.etag):
                yield from self._upload(number, some, urls)
                number, some, urls = number + 1, self._new_list(), []
                some.add(row.url, row.size, row.etag)
            urls.append(row.url)
        if urls:
            yield from self._upload(number, some, urls)
        self._ledger.enter(name, State.CANARY, was=State.LISTING)

    def _compared(self) -> Walk:
        """The manifest of what is to be moved once more: names relative to the source's path, one a line (CSV).

        After a successful transfer there is none. What it may not name is moved here. Where that fails there is no manifest:
        the next attempt goes over all of the prefix.
        """
        assert self._comparison is not None
        yield from self._all(self._comparison.looks())
        self._comparison.sort_out()
        if self.job.kind is Kind.LEFT_BEHIND:
            self._ledger.ready(self.job.name, "")
            return
        rows, settle = self._ledger.rows(self.job.name), partial(self._ledger.settle, self.job.name)
        complete = yield from copy_folders(rows, self._way, self._all, settle)
        job = self._ledger.job(self.job.name)
        assert job is not None
        location = ""
        root = len(job.spec.source_root)
        text = write_manifest(row.key[root:] for row in self._ledger.rows(job.name)) if complete else b""
        if text:
            location = yield from self._put("manifest.csv", "text/csv", text)
        self._ledger.ready(job.name, location)

    def _new_list(self) -> UrlList:
        return UrlList(self._host, self._access.signed, self._sizes.rows, self._sizes.bytes)

    def _write_list(self, number: int, rows: Sequence[Row]) -> Walk:
        made = self._new_list()
        for row in rows:
            made.add(row.url, row.size, row.etag)
        yield from self._upload(number, made, [row.url for row in rows])

    def _upload(self, number: int, made: UrlList, urls: Sequence[str]) -> Walk:
        location = yield from self._put(f"list-{number:05}.tsv", "text/tab-separated-values", made.text())
        self._ledger.add_part(self.job.name, number, urls, made.objects_bytes, location)

    def _put(self, short: str, kind: str, text: bytes) -> Generator[Command, Outcome, str]:
        """Write one object of this attempt's own, perhaps once more; where it is."""
        name = f"{self.job.stage}{short}"
        found = self._sink.stored((yield from self._asked(lambda: self._sink.stat(name), (404,))))
        generation = 0 if found is None else found.generation
        hashes = goog_hash(md5=hashlib.md5(text, usedforsecurity=False).digest())
        plain = Attributes({"content-type": kind}, {})
        yield from self._asked(lambda: self._sink.put(name, plain, text, hashes, generation))
        return f"gs://{self.job.spec.sink_bucket}/{name}"

    # The canary

    def _looked(self) -> Walk:
        """What names did the service give to the canaries? They get their own at once: what cannot be moved is found out here."""
        job, ledger = self.job, self._ledger
        page = self._sink.page_of((yield from self._asked(partial(self._sink.page, prefix=job.landing))))
        if job.naming is None:
            rows = ledger.canaries(job.name)
            names = [one.name.removeprefix(job.landing) for one in page.objects]
            naming = naming_by(names, [row.url for row in rows])
            if naming is None:
                raise Ended("URL_LIST_NAMES", misnamed(rows, names))
            ledger.name_by(job.name, naming)
            self.job = job = replace(job, naming=naming)
        yield from self._page_moved(page.objects)
        ledger.enter(job.name, State.SENDING, was=State.LOOKING)

    # The moves

    def _moved(self) -> Walk:
        """Each object that landed gets its own name; then everything of this attempt's is cleared away."""
        if self.job.naming is not None:
            yield from self._paged(self.job.landing, self._page_moved)
            yield from self._recognised()
            denied = [one for part in self._ledger.parts(self.job.name) for one in part.errors if one[0] == "PERMISSION_DENIED"]
            if denied:
                yield from self._set_apart(islice(self._ledger.rows(self.job.name), NAMES_MAX))
        yield from self._paged(self.job.stage, self._cleared)
        self._ledger.end(self.job.name, datetime.now(UTC))

    def _paged(self, under: str, each: Callable[[Sequence[SinkObject]], Walk]) -> Walk:
        token: str | None = ""
        while token is not None:
            page = self._sink.page_of((yield from self._asked(partial(self._sink.page, prefix=under, token=token))))
            for some in range(0, len(page.objects), MOVES_AT_ONCE):
                yield from each(page.objects[some : some + MOVES_AT_ONCE])
            token = page.token

    def _page_moved(self, objects: Sequence[SinkObject]) -> Walk:
        """What was done of a page is committed, also where not all of it could be done."""
        moved: list[Moved] = []
        bad: list[tuple[Row, KeyVerdict]] = []
        found = [(one, self._row_of(one.name)) for one in objects]
        try:
            yield from self._all(self._one_moved(one, row, moved, bad) for one, row in found if row is not None)
        finally:
            self._ledger.settle(self.job.name, moved, bad)

    def _row_of(self, name: str) -> Row | None:
        assert self.job.naming is not None
        url = url_of(name.removeprefix(self.job.landing), self._base, self.job.naming)
        return None if url is None else self._ledger.row(self.job.name, url)

    def _one_moved(self, one: SinkObject, row: Row, moved: list[Moved], bad: list[tuple[Row, KeyVerdict]]) -> Walk:
        try:
            yield from self._given_its_name(one, row, moved, bad)
        except Ended as end:
            if end.code != REFUSED_ALONE:
                raise
            bad.append((row, failed(row, "sink", end.details)))

    def _given_its_name(self, one: SinkObject, row: Row, moved: list[Moved], bad: list[tuple[Row, KeyVerdict]]) -> Walk:
        stored = one.stored
        if not stored.crc32c and etag_of(row.etag).md5 is not None:
            # The listing of what a KMS key encrypts tells no hashes; a get does.
            answer = yield from self._asked(lambda: self._sink.stat(one.name), (404,))
            stored = (self._sink.stored(answer) if answer.status == 200 else None) or stored
        verified = proved(stored, row)
        if verified is None:
            told = f"the service brought other bytes ({stored.size:,}) than were listed ({row.size:,}, ETag {row.etag})"
            bad.append((row, failed(row, "mismatch", told)))
            return
        if verified is Verified.SIZE and self._sizes.read_back:
            if not (yield from self._read_back.is_listed(one, row)):
                yield from self._copy_from_s3(row, moved, bad)
                return
            verified = Verified.MD5
        attributes = yield from self._attributes(row)
        if isinstance(attributes, KeyVerdict):
            bad.append((row, attributes))
            return
        staged = one.stored.generation
        patch = partial(self._sink.patch, one.name, attributes, staged)
        answer = yield from self._asked(patch, (404, 412))
        if answer.status == 200:
            answer = yield from self._carried(one.name, row, staged)
        if answer.status == 200:
            moved.append(Moved(row, verified))
            return
        # It was moved before, by a run that nobody recorded; or something else is there.
        there = yield from self._at_its_name(row)
        if there is not None:
            moved.append(Moved(row, there))
        else:
            told = f"another object came to be at its name meanwhile: {self._sink.refusal(answer)}"
            bad.append((row, failed(row, "exists", told)))

    def _copy_from_s3(self, row: Row, moved: list[Moved], bad: list[tuple[Row, KeyVerdict]]) -> Walk:
        """What came is not proved to be what was listed: a cache before S3 may have an older version. So S3 itself is read."""
        while self._from_s3 >= FROM_S3_AT_ONCE:
            yield Wait(TURN_S, exact=True)
        self._from_s3 += 1
        try:
            verdict = yield from copied(Task(row.key, row.size, row.etag, row.modified, row.generation), self._way)
        finally:
            self._from_s3 -= 1
        good = verdict.verdict in GOOD
        fields = {"job": self.job.name, "key": row.key, "size": row.size, "verdict": verdict.verdict.value}
        effect = "it was read from S3 itself" if good else verdict.details
        log.warning("landed_unproved", extra={"fields": {**fields, "cause": UNPROVED, "effect": effect}})
        if good:
            moved.append(Moved(row, verdict.verified))
        else:
            bad.append((row, verdict))

    def _carried(self, name: str, row: Row, staged: int) -> Generator[Command, Outcome, Answer]:
        """Move it; where the service has no move, copy it and delete what was copied."""
        to = self._mapping.sink_name(row.key)
        request = partial(self._sink.move, name, to, source_generation=staged, generation=row.generation)
        answer = yield from self._asked(request, (404, 412, *NOT_THERE))
        if answer.status not in NOT_THERE:
            return answer
        token = ""
        while True:
            request = partial(self._sink.rewrite, name, to, source_generation=staged, generation=row.generation, token=token)
            answer = yield from self._asked(request, (404, 412))
            if answer.status != 200:
                return answer
            said = json.loads(answer.body)
            if said.get("done"):
                yield from self._asked(lambda: self._sink.delete(name, staged), (204, 404))
                return answer
            token = said["rewriteToken"]

    def _attributes(self, row: Row) -> Generator[Command, Outcome, Attributes | KeyVerdict]:
        """What the service does not carry: where it came from, and (where it is wanted) what S3 knows of it besides its bytes."""
        uri = self._source.uri(row.key)
        if not self.job.full_metadata:
            return kept({}, etag=row.etag, modified=row.modified, uri=uri)
        tries = Tries(self._backoff_s)
        head = yield from patient(partial(self._source.head, row.key), tries, self._source.explained, of="listing", also=(404,))
        if head.status == 404:
            return failed(row, "vanished", "it is gone from the source since it was listed", Verdict.VANISHED)
        if head.headers.get("etag") != f'"{row.etag}"':
            return failed(row, "source_changing", "it changed at the source since it was listed")
        try:
            return kept(head.headers, etag=row.etag, modified=row.modified, uri=uri)
        except MetadataTooLarge as error:
            return failed(row, "metadata_too_large", str(error), Verdict.UNMAPPABLE)

    def _at_its_name(self, row: Row) -> Generator[Command, Outcome, Verified | None]:
        """How far what is at an object's own name is proved to be it."""
        name = self._mapping.sink_name(row.key)
        found = yield from self._asked(lambda: self._sink.stat(name), (404,))
        stored = self._sink.stored(found) if found.status == 200 else None
        return None if stored is None else alike(stored, size=row.size, etag=row.etag)

    def _set_apart(self, rows: Iterable[Row]) -> Generator[Command, Outcome, int]:
        """Of objects that are to be transferred, those that S3 would not let anybody read; how many they are."""
        check = ArchiveCheck(self._bucket, self._backoff_s)
        yield from self._all(check.look_at(row) for row in rows)
        self._ledger.settle(self.job.name, [], check.cold)
        return len(check.cold)

    def _recognised(self) -> Walk:
        """Moves that an earlier run made, and did not live to record."""
        after = ""
        while rows := list(islice(self._ledger.rows(self.job.name, after), RECOGNISED_AT_ONCE)):
            moved: list[Moved] = []
            yield from self._all(self._one_recognised(row, moved) for row in rows)
            self._ledger.settle(self.job.name, moved, [])
            after = rows[-1].url

    def _one_recognised(self, row: Row, moved: list[Moved]) -> Walk:
        verified = yield from self._at_its_name(row)
        if verified is not None:
            moved.append(Moved(row, verified))

    def _cleared(self, objects: Sequence[SinkObject]) -> Walk:
        """Delete what is left of this attempt's own: its lists, and what landed and is not to be had. Each by its generation."""
        yield from self._all(self._deleted(one) for one in objects)

    def _deleted(self, one: SinkObject) -> Walk:
        yield from self._asked(partial(self._sink.delete, one.name, one.stored.generation), (204, 404, 412))


def _caught(walk: Walk, trouble: list[Ended]) -> Walk:
    try:
        yield from walk
    except Ended as end:
        trouble.append(end)

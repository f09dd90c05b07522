"""What small and large objects share: what makes another read, or another write, worth while."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial

from cdn_worker.domain import archive
from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.integrity import Stored, Verified, alike, equal, etag_of
from cdn_worker.domain.metadata import Attributes, MetadataTooLarge, kept
from cdn_worker.domain.overwrite import REPLACES_IT
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.commands import (
    BROKEN_MAX,
    BUSY,
    BUSY_MAX,
    CHANGED_MAX,
    FORBIDDEN_MAX,
    MISSING_MAX,
    Asking,
    Command,
    Ended,
    Outcome,
    Pausing,
    Renew,
    Task,
    Tries,
    Way,
    expired,
    patient,
)

FROM_STORE = "the CDN has an older version in its cache, so it was read from S3 itself"


class OneObject:
    """What small and large objects share."""

    def __init__(self, task: Task, way: Way, tries: Tries) -> None:
        self.task, self.way, self.tries = task, way, tries
        self.name = way.mapping.sink_name(task.key)
        self.etag = etag_of(task.etag)
        self._asked_for_archive = False
        self.remark = ""

    def ask(self, request: Request) -> Asking:
        answer = yield request
        assert isinstance(answer, Answer)
        return answer

    def done(self, stored: Stored, crc: int, verified: Verified, *, ours: bool) -> KeyVerdict:
        return KeyVerdict(
            key=self.task.key,
            size=self.task.size,
            etag=self.task.etag,
            verdict=Verdict.DONE if ours else Verdict.SKIPPED,
            generation=stored.generation,
            crc32c=crc.to_bytes(4),
            verified=verified,
            details=self.remark,
            tries=self.tries.made,
        )

    # The source's side

    def recover(self, why: str, answer: Answer) -> Pausing:
        """Do what makes another read worth while. Raises Ended when nothing does."""
        again, told = self.tries.again, self.way.source.explained(answer)
        if why == "forbidden" or (why == "refused" and expired(answer)):
            yield from self._refuse_archived(answer)
            pause = again("forbidden", told, FORBIDDEN_MAX)
            yield Renew()
            yield pause
        elif why in ("missing", "changed"):
            yield from self._looked_at(why, told)
        elif why in BUSY:
            yield again(why, told, BUSY_MAX, answer.retry_after())
        elif why == "refused":
            raise Ended("refused", told)
        else:
            # A body that is not what was listed: cut, too long, compressed, of a whole object, redirected elsewhere.
            yield again(why, f"{_WRONG.get(why, why)}; {told}", BROKEN_MAX if why in _WRONG else MISSING_MAX)

    def _refuse_archived(self, answer: Answer) -> Pausing:
        """Raise Ended where a 403 is that of an archived object: no signature opens it."""
        told = archive.refused_as_archived(answer.body)
        if told is None and b"<Code>" not in answer.body and not self._asked_for_archive:
            # No word of S3's: the body is a page of the CDN's own, or there was none.
            self._asked_for_archive = True
            head = yield from self.ask(self.way.source.head(self.task.key))
            told = archive.archived_by_head(head.headers) if head.status == 200 else None
        if told is not None:
            raise Ended(archive.CODE, told, Verdict.UNMAPPABLE)

    def _looked_at(self, why: str, told: str) -> Pausing:
        """Ask the store whether the object is gone, or is another one now."""
        code = "source_changing" if why == "changed" else "not_found"
        pause = self.tries.again(code, f"{told}; the listing has ETag {self.task.etag}", CHANGED_MAX)
        # A store that is busy says nothing of the object. One that refuses may be read through the CDN alone.
        head, explained = partial(self.way.source.head, self.task.key), self.way.source.explained
        answer = yield from patient(head, Tries(self.way.backoff_s), explained, of="source", also=(401, 403, 404, 410))
        if answer.status in (404, 410):
            raise Ended("vanished", "it was listed, and is not there any more", Verdict.VANISHED)
        origin = self.way.source.origin
        as_listed = answer.headers.get("etag") == f'"{self.task.etag}"'
        if why == "changed" and origin is not None and as_listed:
            # What the cache has is older, and may stay for as long as its policy says.
            self.way, self.remark = replace(self.way, source=origin), FROM_STORE
        yield pause

    # The sink's side

    def sink_trouble(self, answer: Answer) -> Pausing:
        """Do what makes another write worth while, after an answer that is neither success nor 412. Raises Ended."""
        again, told, status = self.tries.again, self.way.sink.refusal(answer), answer.status
        if answer.fault is not None or status in (408, 409, 429) or status >= 500:
            code = "sink_throttled" if status == 429 else "sink_busy"
            yield again(code, told, BUSY_MAX, answer.retry_after() if status else 0.0)
        elif status in (401, 403):
            pause = again("sink_forbidden", told, FORBIDDEN_MAX)
            yield Renew()
            yield pause
        elif status in (404, 410):
            raise Ended("sink_missing", told)
        else:
            raise Ended("sink_refused", told)

    def look_up(self) -> Generator[Command, Outcome, Stored | None]:
        """What the sink has under the object's name, however often it must be asked; None when nothing is there."""
        while True:
            answer = yield from self.ask(self.way.sink.stat(self.name))
            if answer.status == 404:
                return None
            if answer.status != 200:
                yield from self.sink_trouble(answer)
                continue
            stored = self.way.sink.stored(answer)
            if stored is not None:
                return stored
            yield self.tries.again("sink_busy", f"gs object {self.name!r} is described without size or crc32c", BUSY_MAX)

    def met(self, crc: int | None, *, ours: bool) -> Generator[Command, Outcome, KeyVerdict | None]:
        """Something is at the sink already (412). An equal object means that all is well; None: it is gone again.

        crc: of the bytes that were read, None when none were; ours: whether a write of ours may have put it there.
        """
        stored = yield from self.look_up()
        if stored is None:
            yield self.tries.again("sink_changing", "412, and then no object was there", CHANGED_MAX)
            return None
        md5 = self.etag.md5
        verified = equal(
            stored,
            size=self.task.size,
            crc32c=None if crc is None else crc.to_bytes(4),
            md5=md5 if crc is None else None,
        )
        if verified is Verified.SIZE and stored.source_etag != self.task.etag:
            verified = None
        if verified is None and crc is not None and self._wrote(stored):
            # A write of ours whose answer told nothing, or did not come, and that went wrong: it must not stay, as it says of
            # itself what the next listing would believe.
            yield from self.undone(stored, f"stored: {stored.size} bytes, crc32c {stored.crc32c.hex()}; read: {crc:08x}")
            return None
        if verified is None:
            told = f"gs object {self.name!r}, generation {stored.generation}, {stored.size:,} bytes, differs"
            raise Ended("exists", f"{told}; nothing was written. {REPLACES_IT}")
        if verified is Verified.CRC32C and md5 is not None and stored.md5 == md5:
            verified = Verified.MD5
        ours = ours or (crc is not None and self._wrote(stored))
        if crc is None:
            crc = int.from_bytes(stored.crc32c)
        return self.done(stored, crc, verified, ours=ours and verified is not Verified.SIZE)

    def _wrote(self, stored: Stored) -> bool:
        """Whether an object that was not there before this try carries what we record with each that we write.

        libcurl repeats a request by itself when a connection that was used before turns out to be dead; where the first
        one was applied all the same, the second is answered 412.
        """
        task = self.task
        ours = (task.etag, task.modified, self.way.source.uri(task.key))
        return bool(task.modified) and (stored.source_etag, stored.source_modified, stored.source_uri) == ours

    def looked(self) -> Generator[Command, Outcome, KeyVerdict | None]:
        """Before anything is read: the verdict, if the object is there; whoever had this task before may have copied it."""
        stored = yield from self.look_up()
        if stored is None:
            return None
        verified = alike(stored, size=self.task.size, etag=self.task.etag)
        return None if verified is None else self.done(stored, int.from_bytes(stored.crc32c), verified, ours=False)

    def undone(self, stored: Stored, told: str) -> Pausing:
        """What was just written is not what was read: delete that very generation, and try again."""
        left = yield from self.deleted(stored)
        if left:
            raise Ended("hash_mismatch", f"{told}; generation {stored.generation} could not be deleted: {left}")
        yield self.tries.again("hash_mismatch", told, MISSING_MAX)

    def deleted(self, stored: Stored) -> Generator[Command, Outcome, str]:
        """Delete just this generation, however often it must be asked for; why it could not be, empty when it is gone."""
        while True:
            answer = yield from self.ask(self.way.sink.delete(self.name, stored.generation))
            if answer.status in (200, 204, 404):
                return ""
            try:
                yield from self.sink_trouble(answer)
            except Ended as end:
                return end.details

    def md5_doubted(self, answer: Answer) -> Pausing:
        """The service says that the bytes do not have the MD5 that the ETag names. Under KMS an ETag is none."""
        pause = self.tries.again("hash_mismatch", self.way.sink.refusal(answer), MISSING_MAX)
        head = yield from self.ask(self.way.source.head(self.task.key))
        if head.status == 200:
            self.etag = etag_of(self.task.etag, encryption=head.headers.get("x-amz-server-side-encryption", ""))
            if "x-amz-server-side-encryption-customer-algorithm" in head.headers:
                self.etag = etag_of(self.task.etag, encryption="sse-c")
        yield pause

    def attributes(self, headers: dict[str, str]) -> Attributes:
        try:
            uri = self.way.source.uri(self.task.key)
            return kept(headers, etag=self.task.etag, modified=self.task.modified, uri=uri)
        except MetadataTooLarge as error:
            raise Ended("metadata_too_large", str(error), Verdict.UNMAPPABLE) from error


_WRONG = {
    "length": "its length is not the listed one",
    "truncated": "it ended early",
    "too_long": "it is longer than listed",
    "range": "the bytes were not those that were asked for",
    "whole": "the whole object came for a range",
    "redirected": "a redirect, which is never followed",
    # It does so with every object, and is mended: to read all of them from S3 would cost what the CDN is there to save.
    "compressed": "the CDN compressed it: turn that off in its cache behaviour (CloudFront: Compress objects automatically)",
    Fault.RESET.value: "the connection was lost",
    Fault.OTHER.value: "the transfer failed",
}

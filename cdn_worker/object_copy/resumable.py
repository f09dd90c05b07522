"""A large object: a resumable session, fed by ranges."""

from __future__ import annotations

from collections.abc import Generator

from cdn_worker.domain import archive
from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import MultipartMd5, Stored, Verified, etag_of, part_sizes
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.base import OneObject
from cdn_worker.object_copy.commands import (
    BROKEN_MAX,
    BUSY_MAX,
    CHECKPOINTS,
    Command,
    Ended,
    Note,
    Outcome,
    Pausing,
    Resume,
    Steps,
    Stream,
    Streamed,
    Task,
    Tries,
    Way,
    wrong,
)


class LargeObject(OneObject):
    """A resumable session, fed by ranges; what either side loses is resumed where the sink says it has got to."""

    def __init__(self, task: Task, way: Way, tries: Tries) -> None:
        super().__init__(task, way, tries)
        resume = task.resume
        self.session = "" if resume is None else resume.session
        self.checkpoints: list[tuple[int, int]] = [(0, 0)]
        if resume is not None:
            self.checkpoints.append((resume.offset, resume.crc))
        self.ranged = True
        self.abandoned = False  # a session that may have stored the object all the same
        self.md5: MultipartMd5 | None = None

    def steps(self) -> Steps:
        try:
            return (yield from self._copied())
        except Ended:
            verdict = yield from self._left_behind()
            if verdict is not None:
                return verdict
            raise

    def _left_behind(self) -> Generator[Command, Outcome, KeyVerdict | None]:
        """Nothing unproved stays: a session that had all the bytes has stored the object, though the last try to read failed."""
        if not self.session:
            return None
        answer = yield from self.ask(self.way.sink.progress(self.session, self.task.size))
        complete = answer.status in (200, 201) and answer.fault is None
        stored = self.way.sink.stored(answer) if complete else None
        if stored is None:
            return None
        if self._proved(stored):
            return self.done(stored, int.from_bytes(stored.crc32c), Verified.MD5, ours=True)
        yield from self.deleted(stored)
        return None

    def _proved(self, stored: Stored) -> bool:
        """Whether the service checked the source's own MD5 against what it stored."""
        md5 = self.etag.md5
        return md5 is not None and stored.size == self.task.size and stored.md5 == md5

    def _copied(self) -> Steps:
        persisted = farthest = 0
        fresh = False  # whether nobody needs to be asked how far the session is
        while True:
            if not self.session:
                verdict = yield from self._begun()
                if verdict is not None:
                    return verdict
                persisted, fresh = 0, True
                if not self.session:
                    continue
            if not fresh:
                answer = yield from self.ask(self.way.sink.progress(self.session, self.task.size))
                if answer.status == 308:
                    persisted = self.way.sink.persisted(answer)
                    if persisted > farthest:
                        farthest = persisted
                        self.tries.forgive()
                else:
                    verdict = yield from self._answered(answer, None)
                    if verdict is not None:
                        return verdict
                    continue
            fresh = False
            streamed = yield self._stream(persisted)
            assert isinstance(streamed, Streamed)
            verdict = yield from self._ended(streamed)
            if verdict is not None:
                return verdict

    def _stream(self, persisted: int) -> Stream:
        task, source = self.task, self.way.source
        offset, crc = max((one for one in self.checkpoints if one[0] <= persisted and self.ranged), default=(0, 0))
        del self.checkpoints[1:-CHECKPOINTS]
        self.checkpoints = [one for one in self.checkpoints if one[0] <= offset] or [(0, 0)]
        self.md5 = self._multipart() if offset == 0 else None
        ranged = self.ranged

        def get(first: int, last: int) -> Request:
            return source.get(task.key, task.etag, task.size, (first, last) if ranged else None)

        def wrong_head(answer: Answer, first: int, last: int) -> str | None:
            return wrong(answer, task, (first, last) if ranged else None)

        session = self.session
        return Stream(
            get=get,
            wrong=wrong_head,
            put=self.way.sink.send(session, persisted, task.size),
            size=task.size,
            start=offset,
            send_from=persisted,
            crc=crc,
            ranged=ranged,
            md5=self.md5,
            checkpoints=self.checkpoints,
            task=task,
            session=session,
        )

    def _multipart(self) -> MultipartMd5 | None:
        if self.etag.parts is None or not self.way.multipart_etags:
            return None
        guess = next(part_sizes(self.task.size, self.etag.parts), None)
        return None if guess is None else MultipartMd5(guess)

    def _begun(self) -> Generator[Command, Outcome, KeyVerdict | None]:
        """Look at the object, and begin a session with what it carries. Without one, call again."""
        task, way = self.task, self.way
        head = yield from self.ask(way.source.head(task.key))
        if head.status == 404:
            raise Ended("vanished", "it was listed, and is not there any more", Verdict.VANISHED)
        why = head.fault.value if head.fault is not None else wrong(head, task, None)
        if why is not None:
            yield from self.recover("changed" if why == "length" else why, head)
            return None
        cold = archive.archived_by_head(head.headers)
        if cold is not None:
            raise Ended(archive.CODE, cold, Verdict.UNMAPPABLE)
        self.etag = etag_of(task.etag, encryption=head.headers.get("x-amz-server-side-encryption", ""))
        attributes = self.attributes(head.headers)
        answer = yield from self.ask(way.sink.begin(self.name, attributes, task.size, self.etag.md5, task.generation))
        session = way.sink.session_of(answer)
        if session is not None:
            self.session = session
            yield Note(task, Resume(session, 0, 0))
            return None
        if answer.status == 412:
            return (yield from self.met(None, ours=self.abandoned))
        yield from self.sink_trouble(Answer(503, said="a session without an address") if answer.status == 200 else answer)
        return None

    def _ended(self, streamed: Streamed) -> Generator[Command, Outcome, KeyVerdict | None]:
        if streamed.why is not None:
            if streamed.why == "whole":
                self.ranged = False
            got = streamed.got if streamed.got is not None else Answer(0)
            yield from self.recover(streamed.why, got)
            return None
        assert streamed.put is not None
        complete = streamed.read == self.task.size
        return (yield from self._answered(streamed.put, streamed.crc if complete else None))

    def _answered(self, answer: Answer, crc: int | None) -> Generator[Command, Outcome, KeyVerdict | None]:
        """What the sink said to the last bytes, or when asked how far it is. crc: of the whole object, if all was read."""
        sink = self.way.sink
        status = answer.status
        if status in (200, 201) and answer.fault is None:
            stored = sink.stored(answer)
            if stored is not None:
                return (yield from self._compared(stored, crc))
            # It has taken all the bytes, and does not say as what: so it is asked, and not written to again.
            stored = yield from self.look_up()
            if stored is not None and self._wrote(stored):
                return (yield from self._compared(stored, crc))
            if stored is not None:
                self.session = ""
                return (yield from self.met(crc, ours=True))
            yield self.tries.again("session_lost", "the session said that it was complete, and no object is there", BROKEN_MAX)
            self.session, self.abandoned = "", True
        elif status in (404, 410):
            yield self.tries.again("session_lost", sink.refusal(answer), BROKEN_MAX)
            self.session, self.abandoned = "", True
        elif status == 412:
            verdict = yield from self.met(crc, ours=self.abandoned)
            self.session = ""
            return verdict
        elif status == 400 and (b"BadDigest" in answer.body or b"doesn't match calculated" in answer.body):
            self.session = ""
            yield from self.md5_doubted(answer)
        elif status == 308:
            yield self.tries.again("sink_busy", "the session did not take all the bytes", BUSY_MAX)
        else:
            yield from self.sink_trouble(answer)
        return None

    def _compared(self, stored: Stored, crc: int | None) -> Generator[Command, Outcome, KeyVerdict | None]:
        """The object is there. It is done only if the bytes that were read are those that are stored."""
        task = self.task
        md5 = self.etag.md5
        if crc is None:
            # Complete before this try read it all: a session from before a restart, or a lost answer.
            known = dict(self.checkpoints).get(task.size)
            if known is None:
                if self._proved(stored):
                    return self.done(stored, int.from_bytes(stored.crc32c), Verified.MD5, ours=True)
                yield from self._reread()
                known = dict(self.checkpoints).get(task.size)
                if known is None:
                    return None
            crc = known
        if stored.size == task.size and stored.crc32c == crc.to_bytes(4):
            own = self.md5 is not None and self.md5.etag() == self.etag.text
            proved = own or (md5 is not None and stored.md5 == md5)
            return self.done(stored, crc, Verified.MD5 if proved else Verified.CRC32C, ours=True)
        self.session = ""
        self.checkpoints = [(0, 0)]
        yield from self.undone(stored, f"stored: {stored.size} bytes, crc32c {stored.crc32c.hex()}; read: {crc:08x}")
        return None

    def _reread(self) -> Pausing:
        """Read what is not hashed yet, and send nothing: the sink has it all."""
        plan = self._stream(self.task.size)
        plan.send_from = self.task.size
        streamed = yield plan
        assert isinstance(streamed, Streamed)
        if streamed.why is not None:
            yield from self.recover(streamed.why, streamed.got or Answer(0))
        elif streamed.read == self.task.size:
            self.checkpoints.append((self.task.size, streamed.crc))

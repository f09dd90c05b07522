"""A small object: one read, one write."""

from __future__ import annotations

from collections.abc import Generator

from google_crc32c import extend

from cdn_worker.domain.http import Answer
from cdn_worker.domain.integrity import MultipartMd5, Verified, etag_of, goog_hash, part_sizes
from cdn_worker.domain.metadata import Attributes
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.object_copy.base import OneObject
from cdn_worker.object_copy.commands import Asking, Command, Outcome, Steps, wrong


class SmallObject(OneObject):
    """One read, one write."""

    def steps(self) -> Steps:
        task = self.task
        while True:
            answer = yield self.way.source.get(task.key, task.etag, task.size)
            assert isinstance(answer, Answer)
            why = self._unfit(answer)
            if why is not None:
                yield from self.recover(why, answer)
                continue
            headers = answer.headers
            encryption = headers.get("x-amz-server-side-encryption")
            if encryption is not None and encryption != "AES256":
                self.etag = etag_of(task.etag, encryption=encryption)
            attributes = self.attributes(headers)
            crc = 0
            for piece in answer.pieces:
                crc = extend(crc, piece)
            verdict = yield from self._written(attributes, answer.body, crc, self._own_md5(answer.pieces))
            if verdict is not None:
                return verdict

    def _unfit(self, answer: Answer) -> str | None:
        if answer.fault is not None and answer.status in (0, 200):
            return answer.fault.value
        why = wrong(answer, self.task, None)
        if why is not None:
            return why
        size = 0
        for piece in answer.pieces:
            size += len(piece)
        if size == self.task.size:
            return None
        return "truncated" if size < self.task.size else "too_long"

    def _own_md5(self, pieces: list[bytes]) -> bool:
        """Whether the bytes have the ETag of an object uploaded in parts. False: not so, or not looked at."""
        if self.etag.parts is None or not self.way.multipart_etags:
            return False
        guess = next(part_sizes(self.task.size, self.etag.parts), None)
        if guess is None:
            return False
        md5 = MultipartMd5(guess)
        for piece in pieces:
            md5.update(piece)
        return md5.etag() == self.etag.text

    def _written(
        self, attributes: Attributes, body: bytes, crc: int, own: bool
    ) -> Generator[Command, Outcome, KeyVerdict | None]:
        """Write what was read. None: it must be read again."""
        task, sink = self.task, self.way.sink
        simple = sink.simple(self.name, attributes)
        sent = False
        while True:
            md5 = self.etag.md5
            if simple:
                hashes = goog_hash(crc32c=crc.to_bytes(4), md5=md5)
                answer = yield sink.put(self.name, attributes, body, hashes, task.generation)
                assert isinstance(answer, Answer)
            else:
                answer = yield from self._by_session(attributes, body, md5)
            status = answer.status
            if status == 200 and answer.fault is None:
                stored = sink.stored(answer)
                if stored is None:
                    # It took the bytes, and does not say as what: so it is asked, and not written to again.
                    verdict = yield from self.met(crc, ours=True)
                    if verdict is not None:
                        return verdict
                elif stored.size == task.size and stored.crc32c == crc.to_bytes(4):
                    proved = own or (md5 is not None and stored.md5 == md5)
                    return self.done(stored, crc, Verified.MD5 if proved else Verified.CRC32C, ours=True)
                else:
                    yield from self.undone(stored, f"stored: {stored.size} bytes, crc32c {stored.crc32c.hex()}; read: {crc:08x}")
                    return None
            elif status == 412:
                verdict = yield from self.met(crc, ours=sent)
                if verdict is not None:
                    return verdict
            elif status == 400 and (b"BadDigest" in answer.body or b"doesn't match calculated" in answer.body):
                yield from self.md5_doubted(answer)
                return None
            else:
                # The write may have been applied, and only its answer lost: then 412 comes next, and is looked into.
                sent = True
                yield from self.sink_trouble(answer)

    def _by_session(self, attributes: Attributes, body: bytes, md5: bytes | None) -> Asking:
        sink = self.way.sink
        answer = yield from self.ask(sink.begin(self.name, attributes, self.task.size, md5, self.task.generation))
        session = sink.session_of(answer)
        if session is None:
            return Answer(503, said="a session without an address") if answer.status == 200 else answer
        answer = yield from self.ask(sink.send(session, 0, self.task.size)._replace(body=body))
        if answer.status in (404, 410):
            return Answer(503, said="the upload session was lost")
        return answer

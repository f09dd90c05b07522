"""The steps of one object, both sides played by the test: what no real server can be made to do at will."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from email.utils import formatdate

import pytest
from google_crc32c import value as crc32c

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.integrity import MultipartMd5, Verified
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.base import FROM_STORE
from cdn_worker.object_copy.commands import (
    BROKEN_MAX,
    BUSY_MAX,
    Command,
    Note,
    Outcome,
    Renew,
    Resume,
    Stream,
    Streamed,
    Task,
    Wait,
    Way,
)
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source

BODY = b"the bytes of an object"
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
Play = Callable[[Command], Outcome]


def way(**more: object) -> Way:
    return Way(source=S3Source("http://s3", "b", "us-east-1"), sink=GcsSink("http://gcs", "s"), backoff_s=0.5, **more)  # type: ignore[arg-type]


def got(body: bytes = BODY, etag: str = MD5, status: int = 200, **headers: str) -> Answer:
    told = {"ETag": f'"{etag}"', "Content-Length": str(len(body))} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    lines = [f"HTTP/1.1 {status} X\r\n".encode(), *[f"{name}: {text}\r\n".encode() for name, text in told.items()], b"\r\n"]
    return Answer(status, lines, [body])


def stored(body: bytes = BODY, generation: int = 7, *, md5: bool = True) -> Answer:
    """As the service answers a PUT: an empty body that is called text/html, and a line of `x-goog-hash` for each hash."""
    told = [("x-goog-generation", str(generation)), ("x-goog-stored-content-length", str(len(body)))]
    told.append(("x-goog-hash", "crc32c=" + base64.b64encode(crc32c(body).to_bytes(4)).decode()))
    if md5:
        told.append(("x-goog-hash", "md5=" + base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()))
    told.append(("content-type", "text/html; charset=UTF-8"))
    return Answer(200, [b"HTTP/1.1 200 OK\r\n", *[f"{name}: {text}\r\n".encode() for name, text in told]])


def resource(body: bytes = BODY, generation: int = 7, **more: object) -> Answer:
    told = {"generation": str(generation), "size": str(len(body)), "crc32c": base64.b64encode(crc32c(body).to_bytes(4)).decode()}
    return Answer(200, pieces=[json.dumps(told | more).encode()])


def played(task: Task, answers: Iterable[Outcome | Play], on: Way | None = None) -> tuple[KeyVerdict, list[Command]]:
    """Give these answers to the requests and streams, in turn; pauses pass. The verdict, and every command."""
    steps, left = copied(task, on or way()), iter(answers)
    commands: list[Command] = []
    outcome: Outcome = None
    while True:
        try:
            command = steps.send(outcome)
        except StopIteration as stop:
            assert next(left, None) is None, "it ended early"
            return stop.value, commands
        commands.append(command)
        outcome = None
        if isinstance(command, Request | Stream):
            answer = next(left)
            outcome = answer(command) if callable(answer) else answer


def requests(commands: list[Command]) -> list[tuple[str, str]]:
    return [(one.method, one.url.partition("?")[0]) for one in commands if isinstance(one, Request)]


EMPTY_MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
TASK = Task("k", len(BODY), MD5, "2026-11-21T03:00:00.000Z")


def test_one_read_one_write() -> None:
    verdict, commands = played(TASK, [got(), stored()])
    assert (verdict.verdict, verdict.verified, verdict.generation, verdict.tries) == (Verdict.DONE, Verified.MD5, 7, 1)
    put = commands[1]
    assert isinstance(put, Request)
    assert put.body == BODY
    assert "x-goog-if-generation-match: 0" in put.headers
    assert f"x-goog-meta-x-goog-source-etag: {MD5}" in put.headers


def test_the_hashes_sent_are_those_of_the_bytes_and_of_the_etag() -> None:
    _, commands = played(TASK, [got(), stored()])
    put = commands[1]
    assert isinstance(put, Request)
    sent = next(line for line in put.headers if line.startswith("x-goog-hash"))
    assert base64.b64encode(crc32c(BODY).to_bytes(4)).decode() in sent
    assert base64.b64encode(bytes.fromhex(MD5)).decode() in sent


@pytest.mark.parametrize("header", ["aws:kms", "aws:kms:dsse"])
def test_an_etag_under_kms_is_no_md5(header: str) -> None:
    """It looks like one. The response says what it is, and no wrong MD5 is sent."""
    verdict, commands = played(
        TASK._replace(etag="a" * 32), [got(etag="a" * 32, x_amz_server_side_encryption=header), stored(md5=False)]
    )
    assert verdict.verified is Verified.CRC32C
    put = commands[1]
    assert isinstance(put, Request)
    assert "md5=" not in "".join(put.headers)


def test_an_etag_that_a_cdn_does_not_explain_is_looked_into_when_the_service_refuses_it() -> None:
    task = TASK._replace(etag="a" * 32)
    refused = Answer(400, pieces=[b"<Error><Code>BadDigest</Code></Error>"])
    head = got(b"", "a" * 32, x_amz_server_side_encryption="aws:kms")
    verdict, commands = played(task, [got(etag="a" * 32), refused, head, got(etag="a" * 32), stored(md5=False)])
    assert (verdict.verdict, verdict.verified) == (Verdict.DONE, Verified.CRC32C)
    assert [method for method, _ in requests(commands)] == ["GET", "PUT", "HEAD", "GET", "PUT"]


def test_bytes_that_never_fit_their_md5_are_refused() -> None:
    refused = Answer(400, pieces=[b"<Error><Code>BadDigest</Code></Error>"])
    verdict, _ = played(
        TASK,
        [
            got(b"other bytes, same size"),
            refused,
            got(b""),
            got(b"other bytes, same size"),
            refused,
            got(b""),
            got(b"other bytes, same size"),
            refused,
        ],
    )
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "hash_mismatch")


def multipart_etag(body: bytes, part: int) -> str:
    md5 = MultipartMd5(part)
    md5.update(body)
    return md5.etag()


def test_a_multipart_etag_is_recomputed_where_the_part_size_can_be_told() -> None:
    body = b"x" * (6 << 20)
    etag = multipart_etag(body, 5 << 20)
    task = Task("k", len(body), etag)
    verdict, _ = played(task, [got(body, etag), stored(body, md5=False)])
    assert verdict.verified is Verified.MD5
    verdict, _ = played(task, [got(body, etag), stored(body, md5=False)], way(multipart_etags=False))
    assert verdict.verified is Verified.CRC32C, "what was not compared is not claimed"
    other = multipart_etag(body, (5 << 20) + 17)
    verdict, _ = played(task._replace(etag=other), [got(body, other), stored(body, md5=False)])
    assert verdict.verified is Verified.CRC32C, "a guess that does not fit proves nothing, and disproves nothing"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (got(BODY[:-1], Content_Length=str(len(BODY))), "truncated"),
        (got(BODY[:-1]), "length"),
        (got(BODY + b"x", Content_Length=str(len(BODY))), "too_long"),
        (got(ETag=f'W/"{MD5}"'), "compressed"),
        (got(ETag=f'W/"{MD5[::-1]}"'), "source_changing"),
        (got(etag=MD5.upper()), "source_changing"),
        (got(status=206, Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}"), "length"),
        (got(status=302, Location="http://elsewhere"), "redirected"),
        (Answer(0, fault=Fault.RESET), "connection_lost"),
    ],
)
def test_what_is_not_the_listed_object_is_never_written(answer: Answer, why: str) -> None:
    """Whatever comes before, the sink is only asked with the right bytes."""

    def source(command: Command) -> Outcome:
        assert isinstance(command, Request)
        assert "s3" in command.url
        return answer if command.method == "GET" else got(b"")

    verdict, commands = played(TASK, [source] * {"source_changing": 5, "connection_lost": 5, "redirected": 5}.get(why, 5))
    assert verdict.error == why
    assert all("//gcs/" not in url for _, url in requests(commands))


@pytest.mark.parametrize("stale", [got(b"an older version", "0" * 32), Answer(412, [b"HTTP/1.1 412 X\r\n"])])
def test_what_a_cache_has_an_older_version_of_is_read_from_the_store(stale: Answer) -> None:
    """S3 has the object as it was listed, and the CDN may answer otherwise for a day."""
    cached = way()
    cached.source = CdnSource("http://cdn/", KeyMapping(), S3Source("http://s3", "b", "us-east-1"))
    verdict, commands = played(TASK, [stale, got(b""), got(), stored()], cached)
    assert (verdict.verdict, verdict.verified, verdict.details) == (Verdict.DONE, Verified.MD5, FROM_STORE)
    asked = [url for _, url in requests(commands)][:3]
    assert asked == ["http://cdn/k", "http://s3/b/k", "http://s3/b/k"]
    busy = Answer(503, [b"HTTP/1.1 503 X\r\n"])
    again, _ = played(TASK, [stale, *[busy] * 5, got(b""), got(), stored()], cached)
    assert (again.verdict, again.details) == (Verdict.DONE, FROM_STORE), "a store that is busy does not say that it changed"
    assert "//cdn/" in way_of_a_large_object(stale)[0]
    assert "//s3/" in way_of_a_large_object(stale)[1]


def way_of_a_large_object(stale: Answer) -> list[str]:
    """The addresses of the first two streams of a large object that the cache has an older version of."""
    cached = way(buffer_max=1)
    cached.source = CdnSource("http://cdn/", KeyMapping(), S3Source("http://s3", "b", "us-east-1"))
    asked: list[str] = []

    def streamed(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        asked.append(command.get(0, 1).url)
        why, answer = ("changed", stale) if len(asked) == 1 else ("missing", Answer(404))
        return Streamed(put=None, got=answer, why=why, crc=0, read=0)

    steps = copied(TASK, cached)
    outcome: Outcome = None
    while len(asked) < 2:
        command = steps.send(outcome)
        match command:
            case Stream():
                outcome = streamed(command)
            case Request() if "//gcs/" not in command.url:
                outcome = got()
            case Request(method="POST"):
                outcome = Answer(200, [b"HTTP/1.1 200 OK\r\n", b"location: http://gcs/session\r\n"])
            case Request(method="PUT"):
                outcome = Answer(308)
            case Request():
                outcome = Answer(404)
            case _:
                outcome = None
    return asked


@pytest.mark.parametrize(
    ("head", "seen", "error"),
    [(got(b"newer", "1" * 32), f'"{"1" * 32}"', "source_changing"), (got(b""), f'W/"{MD5}"', "compressed")],
)
def test_it_is_not_read_from_the_store_where_that_has_another_too_or_where_the_cdn_compresses(
    head: Answer, seen: str, error: str
) -> None:
    cached = way()
    cached.source = CdnSource("http://cdn/", KeyMapping(), S3Source("http://s3", "b", "us-east-1"))
    asked: list[str] = []

    def answer(command: Command) -> Outcome:
        assert isinstance(command, Request)
        asked.append(f"{command.method} {command.url}")
        return head if command.method == "HEAD" else got(ETag=seen)

    verdict, _ = played(TASK, [answer] * 5, cached)
    assert verdict.error == error
    assert "GET http://s3/b/k" not in asked


def test_a_cdn_that_compresses_now_and_then_says_nothing_of_the_object() -> None:
    """Twice compressed, and once an older version: the object did not change three times (seed 168 of the simulation)."""
    cached = way()
    cached.source = CdnSource("http://cdn/", KeyMapping(), S3Source("http://s3", "b", "us-east-1"))
    weak = got(ETag=f'W/"{MD5}"')
    verdict, _ = played(TASK, [weak, weak, got(b"an older version", "0" * 32), got(b""), got(), stored()], cached)
    assert (verdict.verdict, verdict.details) == (Verdict.DONE, FROM_STORE)


def test_a_retry_after_is_waited_for_exactly() -> None:
    busy = Answer(503, [b"HTTP/1.1 503\r\n", b"Retry-After: 17\r\n"])
    _, commands = played(TASK, [busy, got(), busy, stored()])
    assert [one for one in commands if isinstance(one, Wait)] == [Wait(17.0, exact=True)] * 2


def test_pauses_double_and_tries_end() -> None:
    verdict, commands = played(TASK, [Answer(500)] * BUSY_MAX)
    pauses = [one.seconds for one in commands if isinstance(one, Wait)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert (verdict.error, verdict.tries) == ("source_busy", BUSY_MAX)


def test_a_403_has_the_access_renewed_twice_and_is_final_the_third_time() -> None:
    refused = Answer(403, pieces=[b"<Error><Code>AccessDenied</Code></Error>"])
    verdict, commands = played(TASK, [refused] * 3)
    assert sum(isinstance(one, Renew) for one in commands) == 2
    assert verdict.error == "forbidden"


def test_an_archived_object_is_what_it_is_at_once() -> None:
    body = b"<Error><Code>InvalidObjectState</Code><StorageClass>INTELLIGENT_TIERING</StorageClass></Error>"
    verdict, commands = played(TASK, [Answer(403, pieces=[body])])
    assert (verdict.verdict, verdict.error, verdict.tries) == (Verdict.UNMAPPABLE, "archived", 1)
    assert len(commands) == 1, "no signature opens it"


def test_a_403_without_a_word_of_s3_is_looked_into_once() -> None:
    cold = got(b"", x_amz_storage_class="GLACIER")
    verdict, commands = played(TASK, [Answer(403), cold])
    assert (verdict.verdict, verdict.error) == (Verdict.UNMAPPABLE, "archived")
    assert not any(isinstance(one, Renew) for one in commands)
    page = Answer(403, pieces=[b"<html>sorry</html>"])
    restored = got(b"", x_amz_storage_class="GLACIER", x_amz_restore='ongoing-request="false", expiry-date="x"')
    verdict, commands = played(TASK, [page, restored, page, page])
    assert verdict.error == "forbidden"
    assert [method for method, _ in requests(commands)] == ["GET", "HEAD", "GET", "GET"]


def test_a_large_archived_object_is_told_by_its_head_and_in_the_middle_by_the_refusal() -> None:
    task = TASK._replace(size=20 << 20)
    head = got(b"", x_amz_archive_status="DEEP_ARCHIVE_ACCESS", Content_Length=str(20 << 20))
    verdict, commands = played(task, [head])
    assert (verdict.verdict, verdict.error) == (Verdict.UNMAPPABLE, "archived")
    assert requests(commands) == [("HEAD", "http://s3/b/k")]
    resume = Resume("http://gcs/upload?upload_id=1", 0, 0)
    half = Answer(308, [b"HTTP/1.1 308\r\n", b"Range: bytes=0-1048575\r\n"])
    body = b"<Error><Code>InvalidObjectState</Code><StorageClass>GLACIER</StorageClass></Error>"
    refused = Streamed(put=None, got=Answer(403, pieces=[body]), why="forbidden", crc=0, read=0)
    verdict, _ = played(task._replace(resume=resume), [half, refused, half])
    assert (verdict.verdict, verdict.error, verdict.tries) == (Verdict.UNMAPPABLE, "archived", 1)


def test_hard_names_and_foreign_metadata_go_by_a_session() -> None:
    begun = Answer(200, [b"HTTP/1.1 200\r\n", b"Location: http://gcs/upload?upload_id=1\r\n"])
    for task, answer in ((TASK._replace(key="a/../b"), got()), (TASK, got(x_amz_meta_who="Müller"))):
        verdict, commands = played(task, [answer, begun, resource()])
        assert verdict.verdict is Verdict.DONE
        begin = commands[1]
        assert isinstance(begin, Request)
        assert "uploadType=resumable" in begin.url
        assert "ifGenerationMatch=0" in begin.url


def test_a_session_elsewhere_is_not_followed() -> None:
    """Its address comes from an answer: bytes and token go nowhere else."""
    begun = Answer(200, [b"HTTP/1.1 200\r\n", b"Location: http://evil/upload?upload_id=1\r\n"])
    verdict, commands = played(TASK._replace(key="./b"), [got(), *[begun] * BUSY_MAX])
    assert verdict.error == "sink_busy"
    assert all("evil" not in url for _, url in requests(commands))


def test_metadata_that_is_too_large_is_a_verdict() -> None:
    verdict, _ = played(TASK, [got(x_amz_meta_a="x" * 9000)])
    assert (verdict.verdict, verdict.error) == (Verdict.UNMAPPABLE, "metadata_too_large")


@pytest.mark.parametrize("task", [TASK, Task("k", 0, EMPTY_MD5, "2026-11-21T03:00:00.000Z")], ids=["bytes", "no byte"])
def test_a_write_whose_answer_tells_nothing_is_asked_about_and_not_made_again(task: Task) -> None:
    body = BODY[: task.size]
    verdict, commands = played(task, [got(body, task.etag), Answer(200, [b"HTTP/1.1 200 OK\r\n"]), resource(body, 9)])
    assert (verdict.verdict, verdict.verified, verdict.generation) == (Verdict.DONE, Verified.CRC32C, 9)
    assert [method for method, _ in requests(commands)] == ["GET", "PUT", "GET"]


def test_a_write_whose_answer_tells_nothing_and_that_somebody_replaced_is_left_alone() -> None:
    """Whose it is cannot be known, so nothing is deleted."""
    verdict, commands = played(TASK, [got(), Answer(200, [b"HTTP/1.1 200 OK\r\n"]), resource(b"other bytes, same size", 9)])
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "exists")
    assert [method for method, _ in requests(commands)] == ["GET", "PUT", "GET"]


@pytest.mark.parametrize("answer", [Answer(200, [b"HTTP/1.1 200 OK\r\n"]), Answer(412)], ids=["it told nothing", "412"])
def test_a_write_of_ours_that_went_wrong_does_not_stay(answer: Answer) -> None:
    """It carries the ETag of the listing: the next one would take it for the object."""
    recorded = {"x-goog-source-etag": MD5, "x-goog-source-last-modified": TASK.modified, "x-goog-source-uri": "s3://b/k"}
    wrong = resource(b"other bytes, same size", 9, metadata=recorded)
    verdict, commands = played(TASK, [got(), answer, wrong, Answer(204), stored(generation=11)])
    assert (verdict.verdict, verdict.verified, verdict.generation) == (Verdict.DONE, Verified.MD5, 11)
    assert [method for method, _ in requests(commands)] == ["GET", "PUT", "GET", "DELETE", "PUT"]
    assert any(one.method == "DELETE" and one.url.endswith("?generation=9") for one in commands if isinstance(one, Request))


def test_a_service_that_never_describes_an_object_is_given_up() -> None:
    empty = [Answer(200, [b"HTTP/1.1 200 OK\r\n"])] * (BUSY_MAX + 1)
    verdict, _ = played(TASK, [got(), *empty])
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "sink_busy")


@pytest.mark.parametrize(
    ("recorded", "end"),
    [
        ((MD5, TASK.modified, "s3://b/k"), Verdict.DONE),
        ((MD5, "2026-11-20T00:00:00.000Z", "s3://b/k"), Verdict.SKIPPED),
        ((MD5, TASK.modified, "s3://other/k"), Verdict.SKIPPED),
        (("", "", ""), Verdict.SKIPPED),
    ],
    ids=["as we write it", "of another listing", "of another bucket", "not at all"],
)
def test_an_equal_object_that_came_to_be_meanwhile_is_ours_if_it_carries_what_we_record(
    recorded: tuple[str, str, str], end: Verdict
) -> None:
    """libcurl repeats a request by itself on a new connection: the first one may have been applied."""
    told = dict(zip(("x-goog-source-etag", "x-goog-source-last-modified", "x-goog-source-uri"), recorded, strict=True))
    verdict, commands = played(TASK, [got(), Answer(412), resource(metadata={name: text for name, text in told.items() if text})])
    assert (verdict.verdict, verdict.verified, verdict.tries) == (end, Verified.CRC32C, 1)
    assert [method for method, _ in requests(commands)] == ["GET", "PUT", "GET"]


def test_what_cannot_be_deleted_is_named() -> None:
    verdict, _ = played(TASK, [got(), stored(b"other bytes, same size"), *[Answer(403)] * 3])
    assert verdict.error == "hash_mismatch"
    assert "generation 7 could not be deleted" in verdict.details


# Large objects

LARGE = Task("k", 100 << 20, "e" * 32)
SESSION = "http://gcs/upload/1"
BEGUN = Answer(200, [b"HTTP/1.1 200\r\n", f"Location: {SESSION}\r\n".encode()])
HEAD = got(b"", LARGE.etag, Content_Length=str(LARGE.size))


def whole(crc: int = 5, **more: object) -> Answer:
    told = {"generation": "9", "size": str(LARGE.size), "crc32c": base64.b64encode(crc.to_bytes(4)).decode()}
    return Answer(200, pieces=[json.dumps(told | more).encode()])


def test_a_large_object_is_done_when_the_sinks_hash_is_that_of_all_bytes_read() -> None:
    end = Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size)
    verdict, commands = played(LARGE, [HEAD, BEGUN, end])
    assert (verdict.verdict, verdict.verified) == (Verdict.DONE, Verified.CRC32C)
    assert Note(LARGE, Resume(SESSION, 0, 0)) in commands


def test_a_session_that_refused_the_hash_is_not_gone_on_with_whether_or_not_the_service_kept_it() -> None:
    """Nobody told what becomes of such a session: another one is begun, and the old one is not asked for."""
    bad = Streamed(put=Answer(400, pieces=[b"<Error><Code>BadDigest</Code></Error>"]), got=None, why=None, crc=5, read=LARGE.size)
    good = Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size)
    another = Answer(200, [b"HTTP/1.1 200\r\n", b"Location: http://gcs/upload/2\r\n"])
    verdict, commands = played(LARGE, [HEAD, BEGUN, bad, HEAD, HEAD, another, good])
    assert verdict.verdict is Verdict.DONE
    assert ("PUT", SESSION) not in requests(commands)
    assert Note(LARGE, Resume("http://gcs/upload/2", 0, 0)) in commands


def test_a_large_object_whose_hash_differs_is_deleted_and_sent_again() -> None:
    bad = Streamed(put=whole(6), got=None, why=None, crc=5, read=LARGE.size)
    good = Streamed(put=whole(5), got=None, why=None, crc=5, read=LARGE.size)
    verdict, commands = played(LARGE, [HEAD, BEGUN, bad, Answer(204), HEAD, BEGUN, good])
    assert verdict.verdict is Verdict.DONE
    assert ("DELETE", "http://gcs/storage/v1/b/s/o/k") in requests(commands)


def test_a_stream_that_breaks_goes_on_from_the_last_checkpoint_before_what_the_sink_has() -> None:
    def broken(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        assert (command.start, command.send_from) == (0, 0)
        command.checkpoints += [(10 << 20, 11), (20 << 20, 22), (30 << 20, 33)]
        return Streamed(put=None, got=Answer(0, fault=Fault.RESET), why="connection_lost", crc=44, read=35 << 20)

    def again(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        assert (command.start, command.crc, command.send_from) == (20 << 20, 22, 25 << 20)
        return Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size)

    there = Answer(308, [b"HTTP/1.1 308\r\n", f"Range: bytes=0-{(25 << 20) - 1}\r\n".encode()])
    verdict, _ = played(LARGE, [HEAD, BEGUN, broken, there, again])
    assert verdict.verdict is Verdict.DONE


def test_a_huge_object_may_meet_more_faults_than_any_bound_as_long_as_it_gets_on() -> None:
    answers: list[Outcome | Play] = [HEAD, BEGUN]
    for turn in range(1, 40):
        answers.append(Streamed(put=Answer(503), got=None, why=None, crc=1, read=turn << 20))
        answers.append(Answer(308, [b"HTTP/1.1 308\r\n", f"Range: bytes=0-{(turn << 20) - 1}\r\n".encode()]))
    answers.append(Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size))
    verdict, _ = played(LARGE, answers)
    assert verdict.verdict is Verdict.DONE


def test_without_progress_it_ends() -> None:
    nothing = Answer(308, [b"HTTP/1.1 308\r\n"])
    answers: list[Outcome | Play] = [HEAD, BEGUN]
    for _ in range(BUSY_MAX):
        answers += [Streamed(put=Answer(503), got=None, why=None, crc=0, read=0), nothing]
    verdict, _ = played(LARGE, answers)
    assert verdict.error == "sink_busy"


def too_long(last: Answer) -> list[Outcome | Play]:
    """A stream that has a surplus at each try, until no further one is made: then the session says how far it is."""
    surplus = Streamed(put=None, got=Answer(206), why="too_long", crc=5, read=LARGE.size)
    nothing = Answer(308, [b"HTTP/1.1 308\r\n"])
    tries: list[Outcome | Play] = [surplus, nothing]
    return [HEAD, BEGUN, *tries * (BROKEN_MAX - 1), surplus, last]


def test_what_a_session_has_stored_unproved_at_the_last_try_is_deleted() -> None:
    verdict, commands = played(LARGE, [*too_long(whole()), Answer(204)])
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "too_long")
    assert requests(commands)[-1] == ("DELETE", "http://gcs/storage/v1/b/s/o/k")


def test_and_what_the_service_proved_by_its_md5_stays() -> None:
    task = LARGE._replace(etag=MD5)
    md5 = base64.b64encode(bytes.fromhex(MD5)).decode()
    answers = [got(b"", MD5, Content_Length=str(LARGE.size)), *too_long(whole(md5Hash=md5))[1:]]
    verdict, _ = played(task, answers)
    assert (verdict.verdict, verdict.verified) == (Verdict.DONE, Verified.MD5)


def test_a_source_that_knows_no_ranges_is_read_whole() -> None:
    def ranged(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        assert command.ranged
        return Streamed(put=None, got=Answer(200), why="whole", crc=0, read=0)

    def unranged(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        assert not command.ranged
        assert command.start == 0
        assert all("Range" not in line for line in command.get(0, LARGE.size - 1).headers)
        return Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size)

    there = Answer(308, [b"HTTP/1.1 308\r\n", b"Range: bytes=0-999\r\n"])
    verdict, _ = played(LARGE, [HEAD, BEGUN, ranged, there, unranged])
    assert verdict.verdict is Verdict.DONE


def test_a_session_that_is_complete_but_not_hashed_here_is_read_and_compared() -> None:
    """A run that was killed after the last byte left a session that is done: its object is not believed unread."""

    def read_only(command: Command) -> Outcome:
        assert isinstance(command, Stream)
        assert command.send_from == LARGE.size, "nothing is sent"
        command.checkpoints.append((LARGE.size, 5))
        return Streamed(put=None, got=None, why=None, crc=5, read=LARGE.size)

    task = LARGE._replace(resume=Resume(SESSION, 32 << 20, 1))
    verdict, _ = played(task, [whole(), read_only])
    assert (verdict.verdict, verdict.verified) == (Verdict.DONE, Verified.CRC32C)


def test_a_session_that_is_complete_with_the_sources_md5_needs_no_second_reading() -> None:
    task = LARGE._replace(resume=Resume(SESSION, 32 << 20, 1))
    md5 = base64.b64encode(bytes.fromhex(LARGE.etag)).decode()
    verdict, _ = played(task, [whole(md5Hash=md5)])
    assert (verdict.verdict, verdict.verified) == (Verdict.DONE, Verified.MD5)


def test_a_session_of_an_earlier_run_that_is_gone_is_begun_again() -> None:
    task = LARGE._replace(resume=Resume(SESSION, 32 << 20, 1))
    end = Streamed(put=whole(), got=None, why=None, crc=5, read=LARGE.size)
    verdict, _ = played(task, [Answer(404), HEAD, BEGUN, end])
    assert verdict.verdict is Verdict.DONE


def test_an_equal_object_met_at_the_beginning_is_skipped_and_another_one_is_left() -> None:
    equal = whole(metadata={"x-goog-source-etag": LARGE.etag})
    verdict, _ = played(LARGE, [HEAD, Answer(412), equal])
    assert (verdict.verdict, verdict.verified) == (Verdict.SKIPPED, Verified.SIZE)
    verdict, _ = played(LARGE, [HEAD, Answer(412), whole(metadata={"x-goog-source-etag": "f" * 32})])
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "exists")


def test_names_are_mapped() -> None:
    mapping = KeyMapping(source_root="a/", sink_root="b/")
    _, commands = played(TASK._replace(key="a/x y"), [got(), stored()], way(mapping=mapping))
    assert requests(commands) == [("GET", "http://s3/b/a/x%20y"), ("PUT", "http://gcs/s/b/x%20y")]


@pytest.mark.parametrize(("minutes", "told"), [(17, "17 minutes fast"), (-17, "17 minutes slow"), (1, "")])
def test_a_clock_that_is_off_is_told(minutes: int, told: str) -> None:
    """S3's own answer has the time. (A signature that is a quarter of an hour off is refused.)"""
    at_s3 = 1_795_000_000
    date = formatdate(at_s3, usegmt=True)
    source = S3Source("http://s3", "b", "us-east-1", now=lambda: at_s3 + minutes * 60)
    answer = Answer(
        403, [b"HTTP/1.1 403\r\n", f"Date: {date}\r\n".encode()], [b"<Error><Code>RequestTimeTooSkewed</Code></Error>"]
    )
    said = source.explained(answer)
    assert "403 RequestTimeTooSkewed" in said
    assert ("clock" in said) == bool(told)
    assert told in said


def test_a_bucket_in_another_region_is_told_where() -> None:
    answer = Answer(301, [b"HTTP/1.1 301\r\n", b"x-amz-bucket-region: eu-west-1\r\n"])
    assert "--s3-region eu-west-1" in S3Source("http://s3", "b", "us-east-1").explained(answer)


def test_what_is_stored_wrong_is_deleted_however_often_that_must_be_asked_for() -> None:
    """A server that has just given up an idle connection answers 408 to whatever comes next on it."""
    wrong = stored(b"other bytes, same size")
    answers = [got(), wrong, Answer(408), Answer(0, fault=Fault.RESET), Answer(503), Answer(204), got(), stored()]
    verdict, commands = played(TASK, answers)
    assert verdict.verdict is Verdict.DONE
    assert [method for method, _ in requests(commands)].count("DELETE") == 4


def test_and_so_is_what_a_session_left_at_the_last_try() -> None:
    verdict, commands = played(LARGE, [*too_long(whole()), Answer(408), Answer(204)])
    assert (verdict.verdict, verdict.error) == (Verdict.FAILED, "too_long")
    assert [method for method, _ in requests(commands)].count("DELETE") == 2

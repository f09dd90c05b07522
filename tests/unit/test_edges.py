"""The edges of the domain: at the bound, one below it, one above. What a run of mutations showed that nothing else looks at."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cdn_worker.domain.budget import Budget
from cdn_worker.domain.concurrency import SETTLE_S, Climb, Interval, Pace
from cdn_worker.domain.http import Answer, headers_of, status_of
from cdn_worker.domain.integrity import MIB, PART_BYTES_MIN, PARTS_MAX, Stored, goog_hashes, part_sizes
from cdn_worker.domain.listing_page import parse_page
from cdn_worker.domain.metadata import kept
from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.signing import unsafe
from cdn_worker.domain.verdict import KeyVerdict, Tally, Verdict, summary
from sts_manager.domain.errors import Denied, NameDeleted, NameTaken, NotFound, OutOfOrder, Permanent, Retryable, Throttled
from sts_manager.domain.heartbeat import tally
from sts_manager.domain.location import place, places_of
from sts_manager.domain.model import Change, Counters, JobStatus, Policy, PrefixJob, Route
from sts_manager.domain.names import Prefix, whole_of
from sts_manager.domain.pacing import WAIT_MAX, advanced, backoff, is_due, is_stalled, jitter, ramp_room
from sts_manager.domain.routing import choose

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
SECOND = timedelta(seconds=1)


# Pace


def test_a_pace_is_cut_once_in_a_while_and_grows_by_one_a_round() -> None:
    pace = Pace(10)
    assert (pace.limit, pace.not_before) == (10, 0)
    pace.went_well()
    assert pace.limit == 10
    pace.throttled(5.0)
    assert (pace.limit, pace.not_before) == (7, 0)
    pace.throttled(5.0 + SETTLE_S / 2)
    assert pace.limit == 7
    pace.throttled(5.0 + SETTLE_S)
    assert pace.limit == pytest.approx(4.9)
    pace.went_well()
    assert pace.limit == pytest.approx(4.9 + 1 / 4.9)
    for _ in range(200):
        pace.went_well()
    assert pace.limit == 10
    for turn in range(30):
        pace.throttled(100.0 + turn)
    assert pace.limit == 1


def test_a_wait_that_was_asked_for_is_kept_and_never_shortened() -> None:
    pace = Pace(1)
    pace.throttled(10.0, 0.5)
    assert pace.not_before == 10.5
    pace.throttled(10.1, 0.1)
    assert pace.not_before == 10.5
    pace.throttled(-100.0)
    assert pace.not_before == 10.5
    with pytest.raises(ValueError, match=r"^at least one request at a time$"):
        Pace(0)


def interval(objects: int, idle: float, size: int = 0) -> Interval:
    return Interval(0.5, objects, size, idle)


def test_a_climb_doubles_while_it_pays_and_takes_back_what_did_not() -> None:
    climb = Climb(4, 32)
    climb.observe(interval(100, 0.24), full=True)
    assert climb.limit == 4, "no time to spare"
    climb.observe(interval(100, 0.25), full=False)
    assert climb.limit == 4, "the limit limits nothing"
    climb.observe(interval(0, 0.9), full=True)
    assert climb.limit == 4, "nothing moves"
    climb.observe(interval(100, 0.25), full=True)
    assert climb.limit == 8
    climb.observe(interval(111, 0.25), full=True)
    assert climb.limit == 16, "a tenth more is enough, and the next step follows"
    climb.observe(interval(120, 0.9), full=True)
    assert climb.limit == 8, "less than a tenth more is not"
    for _ in range(Climb.HOLD - 1):
        climb.observe(interval(500, 0.9), full=True)
    assert climb.limit == 8
    climb.observe(interval(500, 0.9), full=True)
    assert climb.limit == 16
    climb.observe(interval(1000, 0.9), full=True)
    climb.observe(interval(9000, 0.9), full=True)
    assert climb.limit == 32
    climb.observe(interval(1, 0.9), full=True)
    assert climb.limit == 32, "at the most there is no step to be taken back"


def test_a_climb_never_goes_under_the_least_and_counts_bytes_as_work() -> None:
    climb = Climb(1, 3)
    climb.observe(interval(0, 1.0, 10 << 20), full=True)
    assert climb.limit == 2
    climb.observe(interval(0, 1.0, 11 << 20), full=True)
    assert climb.limit == 3
    climb.observe(interval(0, 1.0, 1 << 20), full=True)
    assert climb.limit == 1
    assert Climb(2, 2).limit == 2
    for least, most in ((0, 1), (3, 2)):
        with pytest.raises(ValueError, match=f"^1 <= {least} <= {most} does not hold$"):
            Climb(least, most)


def test_a_budget_is_taken_to_its_last_byte() -> None:
    budget = Budget(1)
    assert budget.take(1)
    assert not budget.take(1)
    budget.give(1)
    assert budget.take(5), "what is larger than all of it goes alone"
    with pytest.raises(ValueError, match=r"^6 bytes given back, 5 taken$"):
        budget.give(6)
    with pytest.raises(ValueError, match=r"^a budget needs at least one byte$"):
        Budget(0)


# Integrity


@pytest.mark.parametrize(
    ("size", "parts", "first"),
    [
        (0, 1, None),
        (-1, 1, None),
        (5, 0, None),
        (1, 1, PART_BYTES_MIN),
        (PART_BYTES_MIN, 1, PART_BYTES_MIN),
        (9 * MIB, 1, 9 * MIB),
        (16 * MIB, 2, 8 * MIB),
        (PARTS_MAX * 8 * MIB, PARTS_MAX, 8 * MIB),
        (PARTS_MAX * 8 * MIB, PARTS_MAX + 1, None),
        (20 * MIB, 3, 7 * MIB),
        (21 * MIB, 3, 7 * MIB),
        (39 * MIB, 3, 15 * MIB),
    ],
)
def test_guesses_of_part_sizes(size: int, parts: int, first: int | None) -> None:
    found = list(part_sizes(size, parts))
    assert all(isinstance(one, int) for one in found)
    assert all(max(1, -(-size // one)) == parts for one in found)
    assert next(iter(found), None) == first
    assert len(found) == len(set(found))


def test_hashes_that_are_no_base64_are_none() -> None:
    assert goog_hashes("crc32c=AAAAAA==,md5=" + base64.b64encode(b"x" * 16).decode())["md5"] == b"x" * 16
    for text in ("crc32c=AAAA AA==", "crc32c=AAAAAA==\n!", "crc32c=AA!AAA=="):
        with pytest.raises(ValueError, match=r"."):
            goog_hashes(text)
    with pytest.raises(ValueError, match=r"."):
        unsafe("AAAA!AAA")


def stored(source_etag: str, source_uri: str) -> Stored:
    return Stored(generation=1, size=1, crc32c=b"0000", md5=None, source_etag=source_etag, source_uri=source_uri)


@pytest.mark.parametrize(
    ("rule", "recorded", "foreign"),
    [
        (Replace.NEVER, False, False),
        (Replace.RECORDED, True, False),
        (Replace.DIFFERENT, True, True),
        (Replace.ALWAYS, True, True),
    ],
)
def test_what_may_be_replaced(rule: Replace, recorded: bool, foreign: bool) -> None:
    """A newer version of the same object; never what another source, or nobody known, put there (unless it is asked for)."""
    own = "s3://team/a%20b"
    assert rule.allows(stored("e", own), own) is recorded
    for other in (stored("", ""), stored("e", ""), stored("e", "s3://other-team/a%20b"), stored("e", "s3://team/a")):
        assert rule.allows(other, own) is foreign
    assert rule.allows(stored("e", ""), "") is foreign, "what is not known proves nothing"


# Answers and pages


def test_of_several_heads_the_last_one_counts() -> None:
    lines = [
        b"HTTP/1.1 100 Continue\r\n",
        b"X-A: 1\r\n",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"X-B: 2 \t\r\n",
        b"X-A: 3\r\n",
        b"\r\n",
    ]
    assert headers_of(lines) == {"x-b": "2", "x-a": "3"}
    assert status_of(lines) == 200
    assert status_of([b"HTTP/2 204\r\n"]) == 204
    assert status_of([b"HTTP/1.1 \r\n"]) == 0
    assert status_of([b"HTTP/1.1 200\r\n", b"nonsense\r\n"]) == 200
    for index in range(1500):
        assert headers_of([f"Name-{index}: x\r\n".encode()]) == {f"name-{index}": "x"}
    assert headers_of(["Name: é\r\n".encode("latin-1")]) == {"name": "é"}


@pytest.mark.parametrize(("said", "seconds"), [("0", 0), ("1", 1), ("300", 300), ("301", 300), ("", 0), ("1.5", 0), ("soon", 0)])
def test_how_long_to_wait(said: str, seconds: float) -> None:
    assert Answer(503, [b"HTTP/1.1 503\r\n", f"Retry-After: {said}\r\n".encode()]).retry_after() == seconds


def page(entries: str, more: str = "<IsTruncated>false</IsTruncated>", begin: str = "<ListBucketResult>") -> bytes:
    return f'<?xml version="1.0"?>{begin}{more}{entries}</ListBucketResult>'.encode()


def entry(key: str, order: str = "KMES") -> str:
    parts = {
        "K": f"<Key>{key}</Key>",
        "M": "<LastModified>2026-01-01T00:00:00.000Z</LastModified>",
        "E": '<ETag>"e"</ETag>',
        "S": "<Size>5</Size>",
    }
    return f"<Contents>{''.join(parts[one] for one in order)}</Contents>"


URL = "<EncodingType>url</EncodingType>"
SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("order", ["KMES", "SEMK"])
@pytest.mark.parametrize("begin", ["<ListBucketResult>", f"<ListBucketResult {SPACE}>"])
@pytest.mark.parametrize(
    ("encoding", "key", "read"),
    [
        (URL, "a%20b", "a b"),
        (URL, "a+b", "a b"),
        (URL, "a%2Bb", "a+b"),
        ("", "a%20b+c", "a%20b+c"),
        ("", "a&amp;&lt;b&quot;&apos;", "a&<b\"'"),
        (URL, "a&amp;b", "a&b"),
    ],
)
def test_a_key_in_any_order_of_fields(order: str, begin: str, encoding: str, key: str, read: str) -> None:
    found = parse_page(page(encoding + entry(key, order), begin=begin))
    assert [(one.key, one.size, one.etag, one.storage_class) for one in found.entries] == [(read, 5, "e", "STANDARD")]
    assert found.token is None


@pytest.mark.parametrize("order", ["KMES", "SEMK"])
def test_a_page_that_more_follows(order: str) -> None:
    more = "<IsTruncated>true</IsTruncated>"
    token = "<NextContinuationToken>a&amp;b</NextContinuationToken>"
    assert parse_page(page(entry("k", order), more + token)).token == "a&b"
    assert parse_page(page(entry("k", order), "<IsTruncated>false</IsTruncated>" + token)).token is None
    with pytest.raises(ValueError, match=r"^a page says that more follows, and has no token for it$"):
        parse_page(page(entry("k", order), more))


@pytest.mark.parametrize(
    "body",
    [
        page(entry("k", "SEMK")).replace(b"?>", b'?><!DOCTYPE x [<!ELEMENT a "b">]>'),
        page(entry("k", "SEMK")).replace(b"?>", b'?><!ENTITY a "b">'),
        page(URL + entry("%ff")),
        page(URL + entry("%ff", "SEMK")),
        page(entry("k", "SEMK").replace('"e"', "e e")),
        page(entry("k", "SEMK").replace('"e"', "e\ne")),
    ],
)
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_page(body)


def test_what_stands_in_place_of_a_listing_is_told() -> None:
    for body, told in (
        (b"<Error><Code>AccessDenied</Code><Message>a &lt;b&gt;</Message></Error>", "AccessDenied: a <b>"),
        (b"<Error><Code>NoSuchBucket</Code></Error>", "NoSuchBucket: "),
    ):
        with pytest.raises(ValueError, match=f"^{told}$"):
            parse_page(body)
    with pytest.raises(ValueError, match="this is no listing") as info:
        parse_page(b"x" * 200)
    assert "x" * 80 in str(info.value)
    assert "x" * 81 not in str(info.value)


def test_control_characters_become_spaces_and_the_framing_of_an_upload_is_left_out() -> None:
    found = kept(
        {"content-type": "a\x01b", "content-encoding": "aws-chunked, gzip,br", "x-amz-meta-a": "x\x02\x03y", "x-amz-meta-b": "ü"},
        etag="e",
    )
    assert found.content == {"content-type": "a b", "content-encoding": "gzip,br"}
    assert found.custom == {"a": "x y", "b": "ü", "x-goog-source-etag": "e"}


# Verdicts


def verdict(key: str, which: Verdict, error: str = "", size: int = 3) -> KeyVerdict:
    return KeyVerdict(key=key, size=size, etag="e", verdict=which, error=error, details=error and "why")


def test_verdicts_are_added_up_and_not_replaced() -> None:
    some = [verdict(str(index), Verdict.FAILED, "forbidden") for index in range(3)]
    some += [verdict(f"v{index}", Verdict.VANISHED, "vanished", 5) for index in range(2)]
    running = Tally()
    for one in some:
        running.add(one)
    for found in (summary(some), running.summary()):
        assert (found.verdicts[Verdict.FAILED], found.verdicts[Verdict.VANISHED], found.listed) == (3, 2, 5)
        assert (found.bytes_by_verdict[Verdict.FAILED], found.bytes_by_verdict[Verdict.VANISHED]) == (9, 10)
        assert found.errors == {"forbidden": 3, "vanished": 2}
        assert not found.good


# The control plane


def row(**more: Any) -> PrefixJob:
    return PrefixJob(prefix=Prefix("p/"), **more)


def test_what_changes_add_is_added_up() -> None:
    def change(before: dict[str, Any], after: dict[str, Any]) -> Change:
        return Change(before=row(**before), after=row(generation=1, **after))

    moved = change({"attempt": 1, "counters": Counters(objects_copied=1)}, {"attempt": 1, "counters": Counters(objects_copied=4)})
    corrected = change({"attempt": 1, "counters": Counters(bytes_copied=9)}, {"attempt": 1, "counters": Counters(bytes_copied=4)})
    again = change({"attempt": 1}, {"attempt": 2, "counters": Counters(objects_copied=9)})
    first = change({"attempt": 0}, {"attempt": 1})
    ended = change({"attempt": 2}, {"attempt": 2, "status": JobStatus.ERROR})
    still = change({"attempt": 2, "status": JobStatus.ERROR}, {"attempt": 2, "status": JobStatus.ERROR})
    found = tally([moved, moved, corrected, again, again, first, ended, ended, still])
    assert (found.objects_copied, found.bytes_copied, found.retries, found.errors) == (6, 0, 2, 2)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("transferJobs/stsm-m-x-a1-p0", "transferJobs/stsm-m-x-a1"),
        ("transferJobs/stsm-m-x-a1-p12", "transferJobs/stsm-m-x-a1"),
        ("transferJobs/stsm-m-x-a1", "transferJobs/stsm-m-x-a1"),
        ("transferJobs/stsm-m-p-a1-px", "transferJobs/stsm-m-p-a1-px"),
        ("transferJobs/stsm-m-p1-a1-p2", "transferJobs/stsm-m-p1-a1"),
        ("transferJobs/somebodys-p0", "transferJobs/somebodys-p0"),
    ],
)
def test_the_job_that_a_part_belongs_to(name: str, whole: str) -> None:
    assert whole_of(name) == whole


def test_when_a_wait_is_over() -> None:
    assert is_due(None, NOW)
    assert is_due(NOW, NOW)
    assert not is_due(NOW + SECOND, NOW)
    assert not is_due(NOW + WAIT_MAX, NOW)
    assert is_due(NOW + WAIT_MAX + SECOND, NOW)


def test_how_many_may_start() -> None:
    rooms = {
        case: ramp_room(*case)
        for case in ((0, 0, 5), (1, 0, 5), (2, 0, 5), (3, 0, 5), (5, 0, 5), (0, 2, 5), (1, 1, 5), (9, 0, 5))
    }
    assert rooms == {
        (0, 0, 5): 1,
        (1, 0, 5): 1,
        (2, 0, 5): 2,
        (3, 0, 5): 2,
        (5, 0, 5): 0,
        (0, 2, 5): 4,
        (1, 1, 5): 3,
        (9, 0, 5): 0,
    }


def test_how_long_a_retry_waits() -> None:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    for tries in range(80):
        doubled = min(hour, minute * 2 ** min(max(tries, 1) - 1, 30))
        assert backoff("p/", tries, minute, hour) == doubled * jitter(f"p/\0{tries}")
    assert jitter("p/\x001") == pytest.approx(0.5185413, abs=1e-6)
    assert all(0.5 <= jitter(str(index)) < 1 for index in range(1000))
    assert len({jitter(str(index)) for index in range(1000)}) == 1000


def test_what_stalls() -> None:
    running: dict[str, Any] = {"status": JobStatus.RUNNING, "job_name": "transferJobs/x", "attempt": 1, "progress_at": NOW}
    five = timedelta(minutes=5)
    assert is_stalled(row(**running), NOW + five, five)
    assert not is_stalled(row(**running), NOW + five - SECOND, five)
    for other in (
        {"status": JobStatus.PAUSED},
        {"lead": Prefix("q/")},
        {"route": Route.STS_FOLLOW},
        {"progress_at": None},
    ):
        assert not is_stalled(row(**(running | other)), NOW + five, five)


@pytest.mark.parametrize(
    "name", ["objects_found", "objects_copied", "objects_skipped", "objects_failed", "bytes_copied", "bytes_found"]
)
def test_whether_something_moved_since(name: str) -> None:
    less, more = Counters(**{name: 1}), Counters(**{name: 2})
    assert (advanced(less, more), advanced(more, less), advanced(less, less)) == (True, False, False)


def test_errors_have_the_services_own_codes() -> None:
    codes = {type(error).__name__: error.code for error in (Retryable("x"), Throttled("x"), Permanent("x"), Denied("x"))}
    codes |= {type(error).__name__: error.code for error in (NameTaken("x"), NameDeleted("x"), NotFound("x"), OutOfOrder("x"))}
    assert codes == {
        "Retryable": "UNAVAILABLE",
        "Throttled": "RESOURCE_EXHAUSTED",
        "Permanent": "INVALID_ARGUMENT",
        "Denied": "PERMISSION_DENIED",
        "NameTaken": "SPEC_DIFFERS",
        "NameDeleted": "JOB_DELETED",
        "NotFound": "NOT_FOUND",
        "OutOfOrder": "OUT_OF_ORDER",
    }
    assert [str(error("x")) for error in (NameTaken, NameDeleted, NotFound, OutOfOrder)] == ["x"] * 4
    assert (Throttled("x", code="A", after=SECOND).code, Throttled("x", after=SECOND).after) == ("A", SECOND)
    assert (Denied("x", code="B").code, Retryable("x", code="C", after=SECOND).after) == ("B", SECOND)
    assert not Throttled("x").made
    assert not Denied("x").made


def test_why_a_route_was_chosen() -> None:
    told = [
        choose(*case[:1], from_s3=case[1], cdn_url=case[2]).why
        for case in (("auto", False, ""), ("auto", True, "u"), ("auto", True, ""))
    ]
    assert told == [
        "the source is in Cloud Storage, which only the Storage Transfer Service reads",
        "a distribution is given (--cdn-url u), and its egress costs less than S3's",
        "no distribution is given (--cdn-url), so the Storage Transfer Service reads S3 itself",
    ]
    assert choose("cdn", from_s3=True, cdn_url="").why == "--route cdn says so"


def test_places_of_a_row_win() -> None:
    ours = (place("s3://source/in"), place("gs://sink"))
    assert [str(one) for one in places_of("", "", otherwise=ours)] == ["s3://source/in/", "gs://sink"]
    assert [str(one) for one in places_of("s3://other/x/", "", otherwise=ours)] == ["s3://other/x/", "gs://sink"]
    assert [str(one) for one in places_of("", "gs://other", otherwise=ours)] == ["s3://source/in/", "gs://other"]


def test_a_policy_that_allows_nothing_is_none() -> None:
    policy = Policy(migration="m", route=Route.CDN, running_max=1, cdn_running_max=1, attempts_max=1, prefixes_per_job=1000)
    assert policy.prefixes_per_job == 1000
    for name in ("running_max", "cdn_running_max", "attempts_max"):
        with pytest.raises(ValueError, match=r"^at least one job must be allowed to run, and one attempt to be made$"):
            changed(policy, name, 0)
    for name, value in (("prefixes_per_job", 0), ("prefixes_per_job", 1001), ("projects", ())):
        with pytest.raises(ValueError, match=r"^1 to 1000 prefixes travel in one job, in a project$"):
            changed(policy, name, value)


def changed(policy: Policy, name: str, value: Any) -> Policy:
    return replace(policy, **{name: value})

"""The values of the data plane that are new with the engine: pace, budget, answers, metadata, signatures, ranges of keys."""

from __future__ import annotations

import base64

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.domain.budget import Budget
from cdn_worker.domain.concurrency import Climb, Interval, Pace
from cdn_worker.domain.http import Answer, headers_of, status_of
from cdn_worker.domain.integrity import goog_hashes
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.metadata import MetadataTooLarge, kept
from cdn_worker.domain.ranges import KeyRange, middle, steps_up
from cdn_worker.domain.sigv4 import AwsKeys, SigV4, canonical_query
from cdn_worker.domain.verdict import KeyVerdict, Tally, Verdict
from tools.emulators.s3_metadata import encode_mail_safe

# Pace and budget


def test_a_host_that_complains_gets_less_and_earns_it_back() -> None:
    pace = Pace(100)
    pace.throttled(now=10.0)
    assert pace.limit == 70
    pace.throttled(now=10.5)
    assert pace.limit == 70, "answers to one and the same crowd count once"
    pace.throttled(now=11.5)
    assert pace.limit == 49
    for _ in range(49):
        pace.went_well()
    assert 49.9 < pace.limit < 50.1, "one more for a round that went well"


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=60))
def test_the_pace_never_leaves_its_bounds(events: list[float | None]) -> None:
    pace = Pace(8)
    for now, event in enumerate(events):
        if event is None:
            pace.went_well()
        else:
            pace.throttled(now * 2.0, event)
        assert 1 <= pace.limit <= 8


def test_retry_after_holds_everything_back() -> None:
    pace = Pace(8)
    pace.throttled(now=10.0, retry_after_s=30)
    pace.throttled(now=12.0, retry_after_s=1)
    assert pace.not_before == 40


def seen(objects: int, idle: float) -> Interval:
    return Interval(seconds=1.0, objects=objects, bytes=0, idle=idle)


def test_the_climb_goes_up_while_it_pays_and_takes_the_last_step_back() -> None:
    climb = Climb(16, 512)
    climb.observe(seen(100, 0.9), full=True)
    assert climb.limit == 32
    climb.observe(seen(200, 0.9), full=True)
    assert climb.limit == 64
    climb.observe(seen(205, 0.9), full=True)
    assert climb.limit == 32, "twice as many moved no more"
    climb.observe(seen(205, 0.9), full=True)
    assert climb.limit == 32, "and that is not tried again at once"


def test_a_busy_machine_does_not_climb_and_neither_does_one_that_lacks_work() -> None:
    climb = Climb(16, 512)
    climb.observe(seen(100, 0.1), full=True)
    climb.observe(seen(100, 0.9), full=False)
    climb.observe(seen(0, 1.0), full=True)
    assert climb.limit == 16


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1), st.booleans())))
def test_the_climb_never_leaves_its_bounds(events: list[tuple[int, float, bool]]) -> None:
    climb = Climb(2, 64)
    for objects, idle, full in events:
        climb.observe(seen(objects, idle), full=full)
        assert 2 <= climb.limit <= 64


def test_a_budget_is_never_overdrawn_and_lets_a_giant_in_alone() -> None:
    budget = Budget(100)
    assert budget.take(60)
    assert not budget.take(50)
    assert budget.take(40)
    budget.give(40)
    budget.give(60)
    assert budget.take(1000), "it would wait for ever"
    assert not budget.take(1)
    with pytest.raises(ValueError, match="1001 bytes given back"):
        budget.give(1001)


# Answers


def test_the_headers_of_the_last_head_are_taken() -> None:
    lines = [
        b"HTTP/1.1 100 Continue\r\n",
        b"X-A: 1\r\n",
        b"\r\n",
        b"HTTP/1.1 206 Partial\r\n",
        b'ETag: "a:b"\r\n',
        b"X-B:  2 \r\n",
        b"\r\n",
    ]
    assert headers_of(lines) == {"etag": '"a:b"', "x-b": "2"}
    assert status_of(lines) == 206
    assert status_of([]) == status_of([b"HTTP/nonsense\r\n"]) == 0


def test_lines_of_one_name_are_one_list() -> None:
    """As Cloud Storage sends its hashes (RFC 9110, 5.3)."""
    lines = [
        b"HTTP/1.1 200 OK\r\n",
        b"x-goog-hash: crc32c=6OcKng==\r\n",
        b"ETag: x\r\n",
        b"X-Goog-Hash: md5=tujYc0p7OIPmm665wPBjvw==\r\n",
    ]
    assert headers_of(lines) == {"x-goog-hash": "crc32c=6OcKng==, md5=tujYc0p7OIPmm665wPBjvw==", "etag": "x"}
    assert set(goog_hashes(headers_of(lines)["x-goog-hash"])) == {"crc32c", "md5"}


def test_a_header_that_is_no_utf8_is_read_all_the_same() -> None:
    assert headers_of([b"HTTP/1.1 200 OK\r\n", b"x-amz-meta-name: M\xfcller\r\n"])["x-amz-meta-name"] == "Müller"
    assert headers_of([b"HTTP/1.1 200 OK\r\n", "x-amz-meta-name: Müller\r\n".encode()])["x-amz-meta-name"] == "Müller"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("99999", 300.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-1", 0.0), ("", 0.0), ("²", 0.0)],
)
def test_retry_after(said: str, seconds: float) -> None:
    assert Answer(429, [b"HTTP/1.1 429\r\n", f"Retry-After: {said}\r\n".encode()]).retry_after() == seconds


# Metadata


def test_only_content_headers_and_user_metadata_are_kept() -> None:
    found = kept(
        {
            "content-type": "text/plain",
            "content-encoding": "aws-chunked, gzip",
            "x-amz-acl": "public-read",
            "set-cookie": "a=b",
            "x-amz-meta-good": "yes",
            "x-amz-meta-bad name": "no",
            "x-amz-meta-x-goog-source-etag": "forged",
        },
        etag="e1",
        modified="2026-11-21T03:00:00.000Z",
    )
    assert found.content == {"content-type": "text/plain", "content-encoding": "gzip"}
    assert found.custom == {"good": "yes", "x-goog-source-etag": "e1", "x-goog-source-last-modified": "2026-11-21T03:00:00.000Z"}


@given(st.text(max_size=80))
def test_no_value_can_end_a_line(text: str) -> None:
    found = kept({"content-disposition": text, "x-amz-meta-a": text}, etag="e")
    for value in (*found.content.values(), *found.custom.values()):
        assert not set(value) & {"\r", "\n", "\0"}


def test_how_an_upload_was_framed_is_not_kept() -> None:
    assert "content-encoding" not in kept({"content-encoding": "aws-chunked"}, etag="e").content


def test_metadata_that_the_sink_would_refuse_is_refused_first() -> None:
    with pytest.raises(MetadataTooLarge, match="8,192 are the most"):
        kept({"x-amz-meta-a": "x" * 8200}, etag="e")


# Signatures


@pytest.mark.parametrize("token", ["", "session-token=="])
@pytest.mark.parametrize("key", ["plain", "a b", "ü+%", "x/../y", "//", "a&b=c?"])
def test_our_signature_is_the_one_that_boto_makes(key: str, token: str) -> None:
    path, query = f"/bucket/{encoded(key)}", canonical_query({"list-type": "2", "prefix": "a b+c"})
    lines = SigV4(AwsKeys("AKIA", "secret", token), "eu-west-1").headers("GET", "s3.local:9", path, query, "20261121T062032Z")
    ours = dict(line.split(": ", 1) for line in lines)
    theirs = AWSRequest("GET", f"http://s3.local:9{path}?{query}", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
    theirs.context["timestamp"] = "20261121T062032Z"
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    theirs.headers["X-Amz-Date"] = "20261121T062032Z"
    signer = S3SigV4Auth(Credentials("AKIA", "secret", token or None), "s3", "eu-west-1")
    canonical = signer.canonical_request(theirs)
    signature = signer.signature(signer.string_to_sign(theirs, canonical), theirs)
    assert ours["Authorization"].endswith(f"Signature={signature}")
    assert "secret" not in repr(SigV4(AwsKeys("AKIA", "secret"), "x").keys)


# Ranges

KEYS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(low=KEYS, high=st.one_of(st.none(), KEYS))
def test_a_cut_lies_strictly_inside(low: str, high: str | None) -> None:
    if high is not None and low >= high:
        low, high = high, low
    at = middle(low, high)
    if at is None or low == high:
        return
    assert low < at
    assert high is None or at < high
    assert low.encode() < at.encode(), "in the order of UTF-8 too"


@given(low=KEYS, high=KEYS, keys=st.lists(KEYS))
def test_a_cut_loses_no_key_and_doubles_none(low: str, high: str, keys: list[str]) -> None:
    whole = KeyRange(min(low, high), max(low, high))
    at = middle(whole.after, whole.until)
    if at is None:
        return
    one, other = whole.cut(at)
    for key in keys:
        assert (key in whole) == ((key in one) + (key in other))
        assert not (key in one and key in other)


@given(low=KEYS, high=st.one_of(st.none(), KEYS))
def test_steps_up_lie_inside_and_the_farthest_is_first(low: str, high: str | None) -> None:
    steps = steps_up(low, high)
    assert steps == sorted(steps, reverse=True)
    assert all(low < step and (high is None or step < high) for step in steps)


def test_a_step_up_finds_the_character_that_tells_keys_apart() -> None:
    low = "logs/2026/11/03/part-00099"
    assert steps_up(low, None, "logs/")[:5] == ["logs/3", "logs/21", "logs/203", "logs/2027", "logs/20260"]
    assert steps_up(low, "logs/203", "logs/")[0] == "logs/2027"


def test_there_is_no_cut_where_there_is_no_room() -> None:
    assert middle("a", "a\0") is None
    with pytest.raises(ValueError, match="not inside"):
        KeyRange("a", "c").cut("c")


def test_a_tally_is_the_sum() -> None:
    tally = Tally()
    for index in range(3):
        tally.add(KeyVerdict(key=f"{index}", size=10, etag="", verdict=Verdict.FAILED, error="forbidden", details=f"{index}"))
    assert tally.summary().errors == {"forbidden": 3}
    assert tally.summary().bytes_by_verdict[Verdict.FAILED] == 30
    assert tally.samples["forbidden"].key == "0", "the first one stands for all"
    assert not tally.summary().good


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("=?UTF-8?B?5pel5pys?=", "日本"),
        ("=?utf-8?b?Y2Fmw6k=?=", "café"),
        ("=?UTF-8?Q?caf=C3=A9_au_lait?=", "café au lait"),
        ("=?UTF-8?Q?caf=C3?= =?UTF-8?Q?=A9?=", "café"),
        ("=?UTF-8?B?5pel?=\t =?UTF-8?B?5pys?=", "日本"),
        ("=?UTF-8?Q?a=0D=0Ab?=", "a b"),
        ("=?UTF-8?B?YQ0KYg==?=", "a b"),
        ("=?UTF-8?Q?a=00b?=", "a b"),
        # What is not well-formed, not whole, or not UTF-8 stays as it is.
        ("=?UTF-8?B?5pel5pys", "=?UTF-8?B?5pel5pys"),
        ("=?UTF-8?B?5pel5pys?= and more", "=?UTF-8?B?5pel5pys?= and more"),
        ("see =?UTF-8?B?5pel5pys?=", "see =?UTF-8?B?5pel5pys?="),
        ("=?UTF-8?B?5pel5py?=", "=?UTF-8?B?5pel5py?="),
        ("=?UTF-8?B?/w==?=", "=?UTF-8?B?/w==?="),
        ("=?UTF-8?X?abc?=", "=?UTF-8?X?abc?="),
        ("=?UTF-8?Q?a=G1?=", "=?UTF-8?Q?a=G1?="),
        ("=?ISO-8859-1?Q?caf=E9?=", "=?ISO-8859-1?Q?caf=E9?="),
        ("=?plain?=", "=?plain?="),
    ],
)
def test_metadata_that_s3_encoded_is_what_its_writer_meant(value: str, text: str) -> None:
    assert kept({"x-amz-meta-name": value}, etag="e").custom["name"] == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60))
def test_whatever_the_stage_s3_encodes_comes_back(text: str) -> None:
    """The stage's own encoder, which is S3's as the user guide shows it."""
    word = f"=?UTF-8?B?{base64.b64encode(text.encode()).decode()}?="
    assert kept({"x-amz-meta-name": encode_mail_safe(word)}, etag="e").custom["name"] == text


def test_content_headers_are_left_as_they_are() -> None:
    word = "=?UTF-8?B?5pel5pys?="
    assert kept({"content-disposition": word}, etag="e").content["content-disposition"] == word

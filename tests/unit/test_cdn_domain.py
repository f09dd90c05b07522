"""Names, signatures, hashes and verdicts of the data plane."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.domain.integrity import (
    MIB,
    MultipartMd5,
    Stored,
    Verified,
    equal,
    etag_of,
    goog_hash,
    goog_hashes,
    part_sizes,
)
from cdn_worker.domain.keys import KeyMapping, encoded, name_fault, same_path, unmappable
from cdn_worker.domain.signing import Digest, Policy, SignedPrefix, safe, sign_prefix, unsafe
from cdn_worker.domain.verdict import KeyVerdict, Summary, Verdict, summary

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)

# Keys


@given(KEYS)
def test_an_encoded_key_is_that_key_again_and_plain_ascii(key: str) -> None:
    path = encoded(key)
    assert unquote(path, errors="strict") == key
    assert set(path) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("100%", "100%25"),
        ("a%20b", "a%2520b"),
        ("what?x=1&y", "what%3Fx%3D1%26y"),
        ("c#", "c%23"),
        ("double//slash", "double//slash"),
        ("x/../y", "x/../y"),
        ("./dot", "./dot"),
        ("new\nline", "new%0Aline"),
        ("tilde~", "tilde~"),
        ("star*", "star%2A"),
        ("日", "%E6%97%A5"),
    ],
)
def test_hard_names_in_a_url(key: str, path: str) -> None:
    assert encoded(key) == path


@given(KEYS, KEYS)
def test_two_keys_never_share_a_path_or_a_name(one: str, other: str) -> None:
    mapping = KeyMapping(sink_root="new/")
    assert (one == other) == (mapping.path(one) == mapping.path(other)) == (mapping.sink_name(one) == mapping.sink_name(other))


def test_roots_are_replaced_and_other_keys_refused() -> None:
    mapping = KeyMapping(source_root="old/", sink_root="new/place/")
    assert mapping.sink_name("old/a/old/b") == "new/place/a/old/b"
    assert mapping.path("old/a") == "old/a"
    with pytest.raises(ValueError, match="is not under 'old/'"):
        mapping.sink_name("other/a")


def test_substitutions_change_the_path_only_and_collisions_are_named() -> None:
    mapping = KeyMapping(substitutions=(("-", "_"), ("__", "_")))
    assert (mapping.path("a-b"), mapping.sink_name("a-b")) == ("a_b", "a-b")
    found = {one.key for one in same_path(["a-b", "c", "a_b", "a--b"], mapping)}
    assert found == {"a-b", "a_b", "a--b"}
    assert list(same_path(["a-b", "c"], mapping)) == []
    with pytest.raises(ValueError, match="needs something to replace"):
        KeyMapping(substitutions=(("", "x"),))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "empty"),
        (".", "no object's name"),
        ("..", "no object's name"),
        ("a\nb", "line break"),
        ("a\rb", "line break"),
        (".well-known/acme-challenge/x", "reserved"),
        ("é" * 513, "1,026 bytes"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_names_that_the_sink_would_refuse(name: str, told: str) -> None:
    assert told in (name_fault(name) or "")


@pytest.mark.parametrize("name", ["a", "...", "a/../b", "a/./b", "/", "//", "folder/", "é" * 512, "a\tb"])
def test_names_that_it_takes(name: str) -> None:
    assert name_fault(name) is None


def test_unmappable_keys_are_found_by_their_name_at_the_sink() -> None:
    mapping = KeyMapping(source_root="a/", sink_root="")
    assert [one.key for one in unmappable(["a/", "a/..", "a/b", "a/x\ny"], mapping)] == ["a/", "a/..", "a/x\ny"]


# Signing


def reversing(message: bytes) -> bytes:
    return message[::-1]


@given(st.binary(max_size=200))
def test_cloudfronts_base64_comes_back(data: bytes) -> None:
    assert unsafe(safe(data)) == data
    assert not set(safe(data)) & set("+=/")


def test_a_policy_is_compact_json_in_cloudfronts_order() -> None:
    policy = Policy(resource="https://d.example/a/*", expires=NOW)
    told = f'{{"Statement":[{{"Resource":"https://d.example/a/*","Condition":{{"DateLessThan":{{"AWS:EpochTime":{NOW.timestamp():.0f}}}}}}}]}}'
    assert policy.text() == told


def test_one_signature_opens_every_url_under_its_prefix() -> None:
    signed = sign_prefix("https://d.example/a/", key_pair_id="K1", sign=reversing, now=NOW, digest=Digest.SHA256)
    parts = dict(pair.split("=", 1) for pair in signed.query.split("&"))
    assert list(parts) == ["Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"]
    assert unsafe(parts["Signature"]) == unsafe(parts["Policy"])[::-1]
    assert json.loads(unsafe(parts["Policy"]))["Statement"][0]["Resource"] == "https://d.example/a/*"
    assert signed.url("https://d.example/a/b%20c").startswith("https://d.example/a/b%20c?Policy=")
    with pytest.raises(ValueError, match=r"not for https://d\.example/b"):
        signed.url("https://d.example/b")
    assert "Hash-Algorithm" not in sign_prefix("https://d/", key_pair_id="K1", sign=reversing, now=NOW).query
    one = sign_prefix("https://d.example/a", key_pair_id="K1", sign=reversing, now=NOW, wildcard=False)
    assert one.url("https://d.example/a")
    with pytest.raises(ValueError, match="not for"):
        one.url("https://d.example/ab")


def test_a_signature_is_renewed_before_it_expires_and_when_the_clock_is_wrong() -> None:
    signed = sign_prefix("https://d/", key_pair_id="K1", sign=reversing, now=NOW, life=timedelta(hours=10))
    assert not signed.due(NOW + timedelta(hours=7, minutes=59))
    assert signed.due(NOW + timedelta(hours=8))
    assert signed.due(NOW - timedelta(seconds=1))


@pytest.mark.parametrize("url", ["https://d/a*", "https://d/a?b"])
def test_wildcards_in_a_url_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="encode them"):
        sign_prefix(url, key_pair_id="K1", sign=reversing, now=NOW)


def test_no_signature_shows_in_a_repr() -> None:
    signed: SignedPrefix = sign_prefix("https://d/", key_pair_id="K1", sign=reversing, now=NOW)
    assert "Signature" not in repr(signed)
    assert "Policy" not in f"{signed}"


# Integrity

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("header", "encryption", "md5", "parts"),
    [
        (f'"{MD5}"', "", bytes.fromhex(MD5), None),
        (f'"{MD5}"', "AES256", bytes.fromhex(MD5), None),
        (f'"{MD5}"', "aws:kms", None, None),
        (f'"{MD5}"', "sse-c", None, None),
        (f'W/"{MD5}"', "", None, None),
        (f'"{MD5}-3"', "", None, 3),
        (f'"{MD5}-0"', "", None, None),
        (f'"{MD5.upper()}"', "", None, None),
        ('"opaque"', "", None, None),
    ],
)
def test_what_an_etag_proves(header: str, encryption: str, md5: bytes | None, parts: int | None) -> None:
    etag = etag_of(header, encryption=encryption)
    assert (etag.md5, etag.parts) == (md5, parts)


@given(st.integers(1, 200), st.sampled_from([5, 8, 16, 64]), st.integers(1, 5 * MIB))
def test_the_part_size_in_use_is_among_the_guesses(full: int, part_mib: int, rest: int) -> None:
    part = part_mib * MIB
    size, parts = full * part + rest, full + 1
    guesses = list(part_sizes(size, parts))
    assert part in guesses
    assert all(-(-size // guess) == parts for guess in guesses), "no guess gives another number of parts"


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 70))
def test_a_multipart_etag_is_recomputed_however_the_bytes_are_cut(data: bytes, part: int, piece: int) -> None:
    parts = [data[start : start + part] for start in range(0, len(data), part)] or [b""]
    digests = b"".join(hashlib.md5(one, usedforsecurity=False).digest() for one in parts)
    expected = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
    hasher = MultipartMd5(part)
    for start in range(0, len(data), piece):
        hasher.update(data[start : start + piece])
    assert hasher.etag() == expected


STORED = Stored(generation=7, size=3, crc32c=b"cccc", md5=b"m" * 16)


@pytest.mark.parametrize(
    ("size", "crc32c", "md5", "level"),
    [
        (3, b"cccc", b"m" * 16, Verified.MD5),
        (3, b"cccc", None, Verified.CRC32C),
        (3, None, b"m" * 16, Verified.MD5),
        (3, None, None, Verified.SIZE),
        (4, b"cccc", b"m" * 16, None),
        (3, b"dddd", b"m" * 16, None),
        (3, b"cccc", b"n" * 16, None),
    ],
)
def test_no_more_is_claimed_than_was_compared(size: int, crc32c: bytes | None, md5: bytes | None, level: Verified | None) -> None:
    assert equal(STORED, size=size, crc32c=crc32c, md5=md5) is level


def test_an_object_without_md5_is_compared_by_crc32c() -> None:
    composed = Stored(generation=7, size=3, crc32c=b"cccc")
    assert equal(composed, size=3, crc32c=b"cccc", md5=b"m" * 16) is Verified.CRC32C
    assert equal(composed, size=3, crc32c=None, md5=b"m" * 16) is Verified.SIZE


@given(st.binary(min_size=4, max_size=4), st.none() | st.binary(min_size=16, max_size=16))
def test_hash_headers_come_back(crc32c: bytes, md5: bytes | None) -> None:
    found = goog_hashes(goog_hash(crc32c=crc32c, md5=md5))
    assert found == {"crc32c": crc32c} | ({} if md5 is None else {"md5": md5})


# Verdicts


def done(key: str = "a", **changes: Any) -> KeyVerdict:
    values: dict[str, Any] = {
        "key": key,
        "size": 3,
        "etag": MD5,
        "verdict": Verdict.DONE,
        "generation": 7,
        "crc32c": b"cccc",
        "verified": Verified.CRC32C,
    }
    return KeyVerdict(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": 0},
        {"crc32c": b""},
        {"verified": Verified.SIZE},
        {"verified": Verified.NONE},
        {"error": "X"},
        {"verdict": Verdict.SKIPPED, "generation": 0},
        {"verdict": Verdict.SKIPPED, "verified": Verified.NONE},
        {"verdict": Verdict.FAILED},
        {"verdict": Verdict.UNMAPPABLE},
        {"size": -1},
    ],
)
def test_a_verdict_that_claims_too_much_cannot_be_made(changes: dict[str, Any]) -> None:
    assert done()
    with pytest.raises(ValueError, match="'a'"):
        done(**changes)


def test_verdicts_add_up_and_each_key_has_one() -> None:
    failed = done("b", verdict=Verdict.FAILED, error="forbidden", generation=0, crc32c=b"", verified=Verified.NONE)
    gone = done("c", verdict=Verdict.VANISHED, error="vanished", generation=0, crc32c=b"", verified=Verified.NONE)
    total: Summary = summary([done(), failed, gone])
    assert (total.listed, total.good, total.errors) == (3, False, {"forbidden": 1, "vanished": 1})
    assert (total.verdicts[Verdict.DONE], total.bytes_by_verdict[Verdict.FAILED]) == (1, 3)
    assert summary([done(), done("b", verdict=Verdict.SKIPPED, verified=Verified.SIZE)]).good
    with pytest.raises(ValueError, match="two verdicts"):
        summary([done(), failed, done()])

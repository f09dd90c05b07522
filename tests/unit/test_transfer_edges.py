"""Bounds of what the data plane reads and writes, each at its last byte or character."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cdn_worker.domain.http import headers_of, status_of
from cdn_worker.domain.integrity import MultipartMd5, etag_of, goog_hash
from cdn_worker.domain.listing_page import parse_page
from cdn_worker.domain.metadata import kept
from cdn_worker.domain.ranges import steps_up
from cdn_worker.domain.signing import Policy, unsafe
from cdn_worker.domain.url_list import HEADER, UrlList
from sts_manager.domain.location import place

MD5 = "0123456789abcdef0123456789abcdef"
HOST = "d1.example.net"


def rows(bytes_max: int, sizes: list[int], *, query: str = "", etag: str = "multipart-2") -> tuple[UrlList, list[bool]]:
    found = UrlList(HOST, query, bytes_max=bytes_max)
    return found, [found.add(f"https://{HOST}/{index}", size, etag) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(("spare", "taken"), [(0, [True, True]), (-1, [True, False])])
def test_a_list_is_filled_to_its_last_byte(spare: int, taken: list[bool]) -> None:
    whole = len(HEADER) + 1 + 2 * (len(f"https://{HOST}/0\t5") + 1)
    found, added = rows(whole + spare, [5, 7])
    assert added == taken
    assert len(found.text()) <= whole + spare
    assert found.objects_bytes == (12 if taken[1] else 5)


def test_rows_of_a_list_end_where_their_columns_do() -> None:
    unsigned, _ = rows(1000, [5])
    assert unsigned.text() == f"{HEADER}\nhttps://{HOST}/0\t5\n".encode()
    signed, _ = rows(1000, [5], query="Signature=s", etag=MD5)
    assert signed.text() == f"{HEADER}\nhttps://{HOST}/0?Signature=s\t5\tASNFZ4mrze8BI0VniavN7w==\n".encode()


@pytest.mark.parametrize("declaration", ["<!DOCTYPE a []>", '<!DOCTYPE a [<!ENTITY x "boo">]>'])
def test_a_listing_with_a_document_type_is_refused(declaration: str) -> None:
    # Spaces between its elements, so that it is not read the quick way.
    body = f'<?xml version="1.0"?>{declaration}<ListBucketResult> <Contents> <Key>a</Key> </Contents></ListBucketResult>'
    with pytest.raises(ValueError, match="no document type"):
        parse_page(body.encode())


def test_an_entity_alone_is_refused_too() -> None:
    with pytest.raises(ValueError, match="no document type"):
        parse_page(b"<ListBucketResult><!ENTITY x><Contents> </Contents></ListBucketResult>")


@pytest.mark.parametrize("field", ["ETag", "LastModified"])
def test_a_field_that_cannot_be_is_told_with_its_key(field: str) -> None:
    fields = {"Key": "k", "LastModified": "2026-11-20T03:00:00.000Z", "ETag": MD5, "Size": "1"} | {field: "a b"}
    inner = " ".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    with pytest.raises(ValueError, match=r"the ETag or the time of 'k' is none: .*'a b'"):
        parse_page(f"<ListBucketResult><Contents> {inner} </Contents></ListBucketResult>".encode())


@pytest.mark.parametrize(
    ("header", "text", "hashed"),
    [(f'"{MD5}"', MD5, True), (f'W/"{MD5}"', MD5, False), ("Ww", "Ww", True), ('"X-2"', "X-2", True)],
)
def test_what_stands_in_an_etag(header: str, text: str, hashed: bool) -> None:
    assert (etag_of(header).text, etag_of(header).hashed) == (text, hashed)


def test_hashes_are_one_line() -> None:
    assert goog_hash(crc32c=b"\0\0\0\1", md5=bytes.fromhex(MD5)) == "crc32c=AAAAAQ==,md5=ASNFZ4mrze8BI0VniavN7w=="


@pytest.mark.parametrize("size", [0, -1])
def test_a_part_has_at_least_one_byte(size: int) -> None:
    with pytest.raises(ValueError, match="a part has at least one byte"):
        MultipartMd5(size)


@pytest.mark.parametrize(
    ("low", "steps"),
    [
        ("\ud7ff", []),  # above it stand the halves of surrogates, which are no characters
        ("\ud7fe", ["\ud7ff"]),
        ("\ue000", ["\ue001"]),
        ("\U0010ffff", []),
        ("\U0010fffe", ["\U0010ffff"]),
        ("a\ud7ff", ["b"]),
    ],
)
def test_steps_are_characters(low: str, steps: list[str]) -> None:
    assert steps_up(low, None) == steps


def test_the_last_of_several_heads_tells() -> None:
    lines = [b"HTTP/1.1 100 Continue\r\n", b"X: old\r\n", b"\r\n", b"HTTP/1.1 200 OK now\r\n", b"Y: new\r\n", b"\r\n"]
    assert headers_of([b"HTTP/1.1 103 Early\r\n", b"Z: z\r\n", b"\r\n", *lines]) == {"y": "new"}
    assert status_of(lines) == 200


def test_a_resource_outside_ascii_is_signed_as_it_is() -> None:
    text = Policy(resource="https://d1.example.net/日本/*", expires=datetime(2026, 11, 21, tzinfo=UTC)).text()
    assert '"Resource":"https://d1.example.net/日本/*"' in text


def test_what_is_no_base64_of_a_url_is_refused() -> None:
    assert unsafe("YQ__") == b"a"
    with pytest.raises(ValueError, match="base64"):
        unsafe("Y\nQ__")


def test_what_the_source_says_of_itself_is_kept_on_one_line() -> None:
    custom = kept({}, etag='a"\r\nb', modified="2026\n11").custom
    assert sorted(custom.values()) == ["2026 11", 'a" b']


@pytest.mark.parametrize(
    ("text", "told"), [("gs://bucket//x", "the path inside the bucket starts with '/'"), ("s3://b://c", "does not name a bucket")]
)
def test_a_place_that_is_none_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        place(text)

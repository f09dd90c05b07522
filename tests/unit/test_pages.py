"""Pages of a listing: the quick scanner and the ordinary parser say the same, and neither is fooled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.domain import listing_page
from cdn_worker.domain.listing_page import RESTORED, RESTORING, Filter, Listed, parse_page
from tests.stages import SOURCE, fill, s3_client
from tools.emulators.stage import Stage

MODIFIED = "2026-11-21T03:00:00.000Z"
ETAG = "d41d8cd98f00b204e9800998ecf8427e"
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
LISTED = st.builds(
    Listed,
    key=KEYS,
    size=st.integers(0, 2**45),
    etag=st.sampled_from([ETAG, f"{ETAG}-12"]),
    modified=st.just(MODIFIED),
    storage_class=st.sampled_from(["STANDARD", "GLACIER", "STANDARD_IA"]),
    restore=st.just(""),
)
RESTORES = {
    "": "",
    RESTORING: "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>",
    RESTORED: "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
    "<RestoreExpiryDate>2026-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>",
}
ARCHIVED = LISTED.flatmap(lambda one: st.sampled_from(list(RESTORES)).map(lambda restore: one._replace(restore=restore)))


def page(entries: Sequence[Listed], token: str = "", *, indent: str = "", extra: str = "", encoded: bool = True) -> bytes:
    rows = []
    for one in entries:
        key = quote_plus(one.key) if encoded else escape(one.key)
        fields = [f"<Key>{key}</Key>", f"<LastModified>{one.modified}</LastModified>", f"<ETag>&quot;{one.etag}&quot;</ETag>"]
        fields += [extra, f"<Size>{one.size}</Size>", f"<StorageClass>{one.storage_class}</StorageClass>", RESTORES[one.restore]]
        rows.append(f"<Contents>{indent}{indent.join(filter(None, fields))}{indent}</Contents>")
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(token)}</NextContinuationToken>"
    head = more if token else "<IsTruncated>false</IsTruncated>"
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><Prefix></Prefix><KeyCount>{len(entries)}</KeyCount>{head}{encoding}{''.join(rows)}</ListBucketResult>"
    )
    return text.encode()


@given(
    st.lists(LISTED, max_size=20) | st.lists(ARCHIVED, max_size=20),
    st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=10),
)
def test_every_page_comes_back_as_it_was_listed(entries: list[Listed], token: str) -> None:
    for body in (page(entries, token), page(entries, token, extra="<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>")):
        found = parse_page(body)
        assert (found.entries, found.token) == (entries, token or None)


@given(st.lists(LISTED, max_size=10) | st.lists(ARCHIVED, max_size=10))
def test_the_scanner_and_the_parser_agree(entries: list[Listed]) -> None:
    body = page(entries, "more")
    assert parse_page(body) == listing_page._parsed(body)


def test_another_layout_is_parsed_in_the_ordinary_way() -> None:
    entries = [Listed("a b", 1, ETAG, MODIFIED, "STANDARD"), Listed("c", 2, ETAG, MODIFIED, "GLACIER")]
    assert parse_page(page(entries, "t", indent="\n  ")).entries == entries
    mixed = page(entries).replace(
        b"<Size>2</Size><StorageClass>GLACIER</StorageClass>", b"<StorageClass>GLACIER</StorageClass><Size>2</Size>"
    )
    assert parse_page(mixed).entries == entries, "one odd entry is not dropped"


def test_keys_without_url_encoding_are_taken_as_they_are() -> None:
    entries = [Listed("a+b%20c & <d>", 1, ETAG, MODIFIED, "STANDARD")]
    assert parse_page(page(entries, encoded=False)).entries == entries


def test_numeric_references_are_xmls_and_not_htmls() -> None:
    """HTML reads &#133; as another character than XML does."""
    body = page([Listed("KEY &copy", 1, ETAG, MODIFIED, "STANDARD")], encoded=False).replace(b"KEY", b"a&#133;b")
    assert parse_page(body).entries[0].key == "a\x85b &copy"


@pytest.mark.parametrize(
    ("status", "restore"),
    [
        ("<RestoreStatus/>", ""),
        ("<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>", ""),
        (
            "<RestoreStatus>\n<RestoreExpiryDate>x</RestoreExpiryDate><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>",
            RESTORED,
        ),
        (
            "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress><RestoreExpiryDate>x</RestoreExpiryDate></RestoreStatus>",
            RESTORING,
        ),
    ],
)
@pytest.mark.parametrize("before", ["<Size>", "</Contents>"])
def test_a_restore_is_read_wherever_it_stands(status: str, restore: str, before: str) -> None:
    one = Listed("a", 1, ETAG, MODIFIED, "GLACIER")
    body = page([one]).replace(before.encode(), f"{status}{before}".encode())
    assert parse_page(body).entries == [one._replace(restore=restore)]


def test_pages_without_a_restore_are_scanned_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group more in the expression would cost every listing that has no archive."""
    monkeypatch.setattr(listing_page, "_ENTRY_RESTORE", None)
    one = Listed("a", 1, ETAG, MODIFIED, "GLACIER")
    assert parse_page(page([one])).entries == [one]


def test_a_missing_class_is_standard() -> None:
    body = page([Listed("a", 1, ETAG, MODIFIED, "STANDARD")]).replace(b"<StorageClass>STANDARD</StorageClass>", b"")
    assert parse_page(body).entries[0].storage_class == "STANDARD"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<Error><Code>AccessDenied</Code><Message>Access &amp; Denied</Message></Error>", "AccessDenied: Access & Denied"),
        (b"<html>a proxy</html>", "this is no listing: b'<html>a proxy</html>'"),
        (b"", "this is no listing"),
        (page([]).replace(b"<IsTruncated>false", b"<IsTruncated>true"), "has no token"),
        (page([Listed("a", 1, ETAG, MODIFIED, "STANDARD")], indent=" ")[:-30], "this is no listing"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult><Contents> </Contents></ListBucketResult>', "no document type"),
    ],
)
def test_what_is_no_listing_is_told(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_page(body)


def test_the_window_and_the_classes() -> None:
    start = datetime(2026, 11, 21, 3, tzinfo=UTC)
    entries = [
        Listed(str(hour), 1, ETAG, (start + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S.000Z"), name)
        for hour, name in enumerate(["STANDARD", "GLACIER", "STANDARD", "STANDARD_IA"])
    ]

    def keys(wanted: Filter) -> str:
        return "".join(one.key for one in wanted.wanted(entries))

    assert keys(Filter()) == "0123"
    assert keys(Filter(since=start + timedelta(hours=1))) == "123"
    assert keys(Filter(before=start + timedelta(hours=1))) == "0"
    assert keys(Filter(storage_classes=["STANDARD", "STANDARD_IA"])) == "023"
    assert keys(Filter(since=start + timedelta(microseconds=500))) == "0123", "S3 writes whole milliseconds"


def test_a_real_server_and_boto3_list_the_same(stage: Stage) -> None:
    names = ["a b", "100%", "a%20b", "a+b", "what?x=1", "c#", "d//e", "x/../y", "日本", "new\nline", "a&b<c>", "q'\""]
    fill(stage, {name: name.encode() for name in names})
    bodies: list[bytes] = []
    with s3_client(stage) as client:
        client.meta.events.register(
            "after-call.s3.ListObjectsV2", lambda http_response, **_: bodies.append(http_response.content)
        )
        theirs = client.list_objects_v2(Bucket=SOURCE, EncodingType="url")["Contents"]
    ours = parse_page(bodies[0]).entries
    assert sorted(one.key for one in ours) == sorted(names)
    assert [(one.size, one.etag) for one in ours] == [(one["Size"], one["ETag"].strip('"')) for one in theirs]


@pytest.mark.parametrize("indent", ["", "\n"], ids=["scanned", "parsed"])
def test_a_page_that_lost_keys_on_its_way_is_refused(indent: str) -> None:
    entries = [Listed(f"k{index}", 1, ETAG, MODIFIED, "STANDARD") for index in range(3)]
    short = page(entries[:2], indent=indent).replace(b"<KeyCount>2<", b"<KeyCount>3<")
    with pytest.raises(ValueError, match="says that it has 3 keys, and has 2"):
        parse_page(short)
    assert parse_page(page(entries, indent=indent)).entries == entries

"""Whatever comes in, a parser reads it or says what is wrong with it, in its own words: nothing else comes out."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdn_worker.domain.http import Answer, headers_of, status_of
from cdn_worker.domain.integrity import etag_of, goog_hashes
from cdn_worker.domain.keys import KeyMapping, encoded, name_fault
from cdn_worker.domain.listing_page import parse_page
from cdn_worker.domain.metadata import MetadataTooLarge, kept
from cdn_worker.domain.signing import Digest, sign_prefix, unsafe
from cdn_worker.domain.url_list import host_fault
from cdn_worker.ports import Access
from cdn_worker.storage.gcs import GcsSink
from sts_manager.cli.prefix_file import read_prefixes
from sts_manager.domain.errors import BadInput
from sts_manager.domain.location import place
from sts_manager.domain.names import prefix_fault
from sts_manager.settings import Settings, load_settings, shown

NAMES = sorted(Settings.model_fields)
anything = st.text(max_size=40)
values = st.one_of(
    anything,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "true", "0", "-1", "1e999", "s3://b-b/x", "gs://b-b", "bigquery://p/d", "https://d.example/", "\0", "'; --"]
    ),
)
many = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def refused(error: Exception, where: str = "") -> None:
    """A refusal tells why, and where it came from."""
    told = str(error)
    assert told
    assert where in told


@many
@given(
    flags=st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
    environment=st.dictionaries(st.one_of(st.sampled_from([f"STS_MANAGER_{name.upper()}" for name in NAMES]), anything), values),
    file=st.one_of(st.none(), st.dictionaries(st.one_of(st.sampled_from(NAMES), anything), values).map(json.dumps), anything),
)
def test_settings(flags: Mapping[str, str], environment: Mapping[str, str], file: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = None
        if file is not None:
            config = Path(folder) / "config.json"
            config.write_bytes(file.encode("utf-8", "surrogatepass"))
        try:
            made = load_settings(flags, environment, config)
        except BadInput as error:
            refused(error)
            return
        assert all(isinstance(value, str) for value in shown(made).values())


prefixes = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(anything, st.none(), st.integers(), st.dictionaries(anything, anything, max_size=3))).map(
        lambda value: json.dumps(value).encode()
    ),
    st.lists(
        st.fixed_dictionaries(
            {"prefix": anything}, optional=dict.fromkeys(("route", "source", "destination", "egress", "x"), values)
        ),
        max_size=4,
    ).map(lambda value: json.dumps(value).encode()),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).map(lambda lines: "\n".join(lines).encode()),
)


@many
@given(body=prefixes)
@example(body=b"\xef\xbb\xbf[]")
@example(body=b'["\\ud800/"]')
@example(body=b"[" * 100_000)
def test_prefix_files(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefixes"
        file.write_bytes(body)
        try:
            found = read_prefixes(file)
        except BadInput as error:
            refused(error, str(file))
            return
        assert all(prefix_fault(prefix) is None for prefix in found.prefixes)
        assert list(found.prefixes) == sorted(found.prefixes)


@many
@given(text=anything)
def test_places(text: str) -> None:
    try:
        found = place(text)
    except ValueError as error:
        refused(error)
        return
    assert place(str(found)) == found


lines = st.lists(st.one_of(st.binary(max_size=60), st.builds(lambda a, b: a + b": " + b + b"\r\n", st.binary(), st.binary())))


@many
@given(lines=lines)
@example(lines=[b"HTTP/1.1 200 OK\r\n", b"Retry-After: 99999999999999999999\r\n"])
@example(lines=[b"HTTP/1.1 \xb2\xb2\xb2 x\r\n"])
@example(lines=["Retry-After: ²\r\n".encode()])
def test_heads_of_answers(lines: list[bytes]) -> None:
    answer = Answer(status_of(lines), lines)
    assert answer.status >= 0
    assert all(name == name.lower() for name in headers_of(lines))
    assert 0 <= answer.retry_after() <= 300


headers = st.dictionaries(
    st.one_of(
        anything,
        st.sampled_from(["content-type", "cache-control", "content-encoding", "x-goog-acl"]),
        anything.map("x-amz-meta-{}".format),
    ),
    anything,
)


@many
@given(headers=headers, modified=anything)
def test_metadata_never_carries_a_line_of_its_own_nor_a_control(headers: dict[str, str], modified: str) -> None:
    try:
        attributes = kept(headers, etag="e", modified=modified)
    except MetadataTooLarge:
        return
    for name, value in (*attributes.content.items(), *attributes.custom.items()):
        assert not set("\r\n\0") & set(name + value)
    assert set(attributes.content) <= {
        "content-type",
        "content-encoding",
        "content-disposition",
        "content-language",
        "cache-control",
    }
    sink = GcsSink("https://storage.example", "bucket")
    if sink.simple("name", attributes):
        sent = sink.put("name", attributes, b"", "crc32c=AAAAAA==", 0).headers
        assert all("\n" not in line and "\r" not in line for line in sent)
        assert sum(line.lower().startswith("x-goog-if-generation-match") for line in sent) == 1


PAGE = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
    b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken><Contents><Key>a%20b</Key>"
    b"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>5</Size>"
    b"<StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
)


@many
@given(
    at=st.integers(0, len(PAGE)),
    cut=st.integers(0, 40),
    put=st.one_of(st.binary(max_size=20), st.sampled_from([b"<", b"&", b"%", b"-"])),
)
@example(at=0, cut=0, put=b"")
@example(at=21, cut=0, put=b'<!DOCTYPE x [<!ENTITY a "b">]>')
@example(at=PAGE.index(b"<Size>") + 6, cut=1, put=b"99999999999999999999999")
@example(at=PAGE.index(b"a%20b"), cut=5, put=b"%ff%fe")
def test_pages_of_a_listing(at: int, cut: int, put: bytes) -> None:
    """A byte of it wrong, and it is a page, or no page: never half of one."""
    body = PAGE[:at] + put + PAGE[at + cut :]
    try:
        page = parse_page(body)
    except ValueError as error:
        refused(error)
        return
    assert len(page.entries) <= body.count(b"Contents") // 2 + 1
    assert all(entry.size >= 0 for entry in page.entries)


@many
@given(text=anything)
def test_hashes_and_etags(text: str) -> None:
    etag = etag_of(text)
    assert etag.md5 is None or len(etag.md5) == 16
    try:
        found = goog_hashes(text)
    except ValueError:
        return
    assert all(isinstance(one, bytes) for one in found.values())


@many
@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), root=st.sampled_from(["", "in/", "ü/"]))
def test_a_key_goes_into_a_url_and_comes_out_as_it_was(key: str, root: str) -> None:
    mapping = KeyMapping(source_root=root, sink_root="out/")
    path = encoded(f"{root}{key}")
    assert unquote(path) == f"{root}{key}"
    assert path.isascii()
    assert not set("?# \r\n") & set(path)
    assert urlsplit(f"https://d.example/{path}").hostname == "d.example"
    name = mapping.sink_name(f"{root}{key}")
    assert name == f"out/{key}"
    assert name_fault(name) is None or "\n" in key or "\r" in key or len(name.encode()) > 1024


@many
@given(base=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), day=st.integers(-3000, 3000))
def test_a_signature_says_nothing_but_what_it_opens(base: str, day: int) -> None:
    url = f"https://d.example/{encoded(base)}"
    now = datetime.fromtimestamp(1_795_000_000 + day * 86_400, UTC)
    try:
        signed = sign_prefix(url, key_pair_id="K", sign=lambda _data: b"signature", now=now, digest=Digest.SHA256)
    except ValueError:
        assert set("*?") & set(url)
        return
    policy = json.loads(unsafe(dict(part.split("=", 1) for part in signed.query.split("&"))["Policy"]))
    assert policy["Statement"][0]["Resource"] == f"{url}*"
    assert signed.query not in repr(signed)
    assert signed.query not in repr(Access(signed=signed.query))
    assert base64.b64encode(b"signature").decode() not in repr(signed)


INSIDE = [
    "127.0.0.1",
    "127.1",
    "0177.0.0.1",
    "0x7f000001",
    "2130706433",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:db8::1]",
    "[ff02::1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "metadata",
    "metadata.google.internal",
    "metadata.google.internal.",
    "instance-data",
    "host.internal",
    "printer.local",
    "a.localhost",
    "intranet",
    "x.lan",
]
TWISTED = [
    "http://d.example/",
    "//d.example/",
    "https://user@d.example/",
    "https://user:secret@d.example/",
    "https://d.example@127.0.0.1/",
    "https://d.example:port/",
    "https:///x",
    "https://",
    "file:///etc/passwd",
    "gopher://d.example/",
    "https://d.example\\@127.0.0.1/",
    "https://d.example\n.evil/",
    "https://d.example%00.evil/",
    "https://①②⑦.0.0.1/",
    "https://127。0。0。1/",
    "https://[::1",
    "HTTPS://[::1]/",
]


@pytest.mark.parametrize("host", INSIDE)
def test_a_host_inside_is_no_host_of_a_url_list(host: str) -> None:
    assert host_fault(f"https://{host}/bucket/") is not None


@pytest.mark.parametrize("url", TWISTED)
def test_nor_is_a_url_that_is_not_what_it_looks_like(url: str) -> None:
    assert host_fault(url) is not None


ADDRESSES = [host.strip("[]") for host in INSIDE if host[0] == "[" or (host.count(".") == 3 and host[0] in "12")]


@pytest.mark.parametrize("address", ADDRESSES)
def test_nor_a_name_that_leads_inside(address: str) -> None:
    assert host_fault("https://d.example/", ["8.8.8.8", address]) is not None


@many
@given(url=anything, addresses=st.lists(anything, max_size=2))
def test_any_text_as_a_url_is_judged(url: str, addresses: list[str]) -> None:
    fault = host_fault(url, addresses)
    assert fault is None or fault
    if fault is None:
        assert urlsplit(url).scheme == "https"

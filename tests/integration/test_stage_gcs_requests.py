"""Requests to Cloud Storage as other clients than ours send them: sessions fed by POST, partial responses, ETags, namespaces."""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

import google_crc32c
import pytest

from tests.stages import SINK, fill, gcs_client
from tools.emulators.stage import Stage

transfer_manager: Any = importlib.import_module("google.cloud.storage.transfer_manager")
STEP = 256 * 1024
DATA = bytes(range(256)) * 3000  # two whole steps and a rest
OBJECTS = f"/storage/v1/b/{SINK}/o"


@pytest.fixture
def bucket(stage: Stage) -> Iterator[Any]:
    fill(stage, {})
    with gcs_client(stage) as client:
        yield client.bucket(SINK)


def ask(stage: Stage, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """One request; the answer's status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(stage.environment["STORAGE_EMULATOR_HOST"]).netloc, timeout=10)
    try:
        connection.request(verb, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4)).decode()


def begin(stage: Stage, name: str, resource: dict[str, Any] | None = None) -> str:
    """Begin a resumable upload; returns the path of its session."""
    path = f"/upload/storage/v1/b/{SINK}/o?uploadType=resumable&name={name}"
    _, headers, _ = ask(stage, "POST", path, json.dumps(resource or {}).encode(), {"Content-Type": "application/json"})
    parts = urlsplit(headers["Location"])
    return f"{parts.path}?{parts.query}"


def feed(stage: Stage, session: str, verb: str, more: dict[str, str] | None = None) -> list[tuple[int, Any, bytes]]:
    """Send DATA in chunks; every answer."""
    answers = []
    for first in range(0, len(DATA), STEP):
        chunk = DATA[first : first + STEP]
        total = str(len(DATA)) if first + STEP >= len(DATA) else "*"
        range_ = f"bytes {first}-{first + len(chunk) - 1}/{total}"
        answers.append(ask(stage, verb, session, chunk, {"Content-Range": range_} | (more or {})))
    return answers


# Sessions


@pytest.mark.parametrize("verb", ["PUT", "POST"])
def test_a_session_is_fed_by_put_or_by_post(stage: Stage, bucket: Any, verb: str) -> None:
    answers = feed(stage, begin(stage, "big"), verb)
    assert [status for status, _, _ in answers] == [308, 308, 200]
    assert answers[1][1]["Range"] == f"bytes=0-{2 * STEP - 1}"
    assert json.loads(answers[-1][2])["crc32c"] == crc32c(DATA)
    assert bucket.blob("big").download_as_bytes() == DATA


def test_a_client_that_takes_no_308_is_answered_200_with_the_status_beside_it(stage: Stage, bucket: Any) -> None:
    session = begin(stage, "big")
    no_308 = {"X-GUploader-No-308": "yes"}
    answers = feed(stage, session, "POST", no_308)
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert [headers["X-Http-Status-Code-Override"] for _, headers, _ in answers] == ["308", "308", None]
    assert [headers["Range"] for _, headers, _ in answers] == [f"bytes=0-{STEP - 1}", f"bytes=0-{2 * STEP - 1}", None]
    _, headers, _ = ask(stage, "POST", begin(stage, "other"), b"", no_308 | {"Content-Range": "bytes */*"})
    assert (headers["X-Http-Status-Code-Override"], headers["Range"]) == ("308", None), "nothing has come yet"
    assert bucket.get_blob("big").size == len(DATA)


@pytest.mark.parametrize("wrong", [f"crc32c={crc32c(b'other')}", f"crc32c={crc32c(DATA)},md5=AAAAAAAAAAAAAAAAAAAAAA=="])
def test_a_wrong_hash_with_the_last_chunk_stores_nothing(stage: Stage, bucket: Any, wrong: str) -> None:
    session = begin(stage, "big")
    assert [status for status, _, _ in feed(stage, session, "PUT", {"X-Goog-Hash": wrong})] == [308, 308, 400]
    assert bucket.get_blob("big") is None
    status, _, _ = ask(stage, "PUT", session, b"", {"Content-Range": f"bytes */{len(DATA)}"})
    assert (status, bucket.get_blob("big")) == (404, None), "asking how far it got stores nothing either"


def test_hashes_of_the_beginning_and_of_the_end_must_agree(stage: Stage, bucket: Any) -> None:
    right = {"X-Goog-Hash": f"crc32c={crc32c(DATA)}"}
    assert feed(stage, begin(stage, "good", {"crc32c": crc32c(DATA)}), "PUT", right)[-1][0] == 200
    assert feed(stage, begin(stage, "bad", {"crc32c": crc32c(b"other")}), "PUT", right)[-1][0] == 400
    assert [blob.name for blob in bucket.list_blobs()] == ["good"]


def test_a_session_may_begin_at_the_path_of_the_discovery_document(stage: Stage, bucket: Any) -> None:
    path = f"/resumable/upload/storage/v1/b/{SINK}/o?uploadType=resumable&name=x"
    status, headers, _ = ask(stage, "POST", path, b"{}", {"Content-Type": "application/json"})
    parts = urlsplit(headers["Location"])
    assert (status, ask(stage, "PUT", f"{parts.path}?{parts.query}", b"data")[0]) == (200, 200)
    assert bucket.blob("x").download_as_bytes() == b"data"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("boundary", ["===1==", '"===1=="', "'===1=='"])
@pytest.mark.parametrize("data", [b"plain", b"", b"ends with\r", b"ends with\r\n", b"\n\n--===1\n", b"\n"])
def test_a_multipart_upload_ends_its_lines_as_it_likes(stage: Stage, bucket: Any, end: str, boundary: str, data: bytes) -> None:
    head = f'--===1=={end}Content-Type: application/json{end}{end}{{"name": "x"}}{end}--===1=={end}Content-Type: a/b{end}{end}'
    body = head.encode() + data + f"{end}--===1==--".encode()
    kind = {"Content-Type": f"multipart/related; boundary={boundary}"}
    status, _, told = ask(stage, "POST", f"/upload/storage/v1/b/{SINK}/o?uploadType=multipart", body, kind)
    assert status == 200, told
    blob = bucket.get_blob("x")
    assert (blob.download_as_bytes(), blob.content_type) == (data, "a/b")


# Partial responses


@pytest.fixture
def filled(stage: Stage, bucket: Any) -> Stage:
    for name in ("a/1", "a/2", "b"):
        blob = bucket.blob(name)
        blob.metadata = {"who": "me", "what": "it"}
        blob.upload_from_string(name.encode(), content_type="text/x")
    return stage


def fields(stage: Stage, path: str, text: str, query: str = "") -> Any:
    status, _, body = ask(stage, "GET", f"{path}?fields={quote(text)}{query}")
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize(
    ("text", "query", "told"),
    [
        ("items(name,size),nextPageToken", "&prefix=a", {"items": [{"name": "a/1", "size": "3"}, {"name": "a/2", "size": "3"}]}),
        ("items/name", "&prefix=b", {"items": [{"name": "b"}]}),
        ("items/name,items/size", "&prefix=b", {"items": [{"name": "b", "size": "1"}]}),
        ("items(name,metadata/who)", "&prefix=b", {"items": [{"name": "b", "metadata": {"who": "me"}}]}),
        ("items/metadata/*", "&prefix=b", {"items": [{"metadata": {"who": "me", "what": "it"}}]}),
        ("items/metadata(who),items/metadata/what", "&prefix=b", {"items": [{"metadata": {"who": "me", "what": "it"}}]}),
        ("prefixes", "&delimiter=/", {"prefixes": ["a/"]}),
        ("kind", "", {"kind": "storage#objects"}),
        ("nextPageToken", "", {}),
        ("items(name,owner/entity)", "&prefix=b", {"items": [{"name": "b"}]}),
    ],
)  # fmt: skip
def test_fields_select_of_a_listing(filled: Stage, text: str, query: str, told: Any) -> None:
    assert fields(filled, OBJECTS, text, query) == told


def test_everything_is_what_the_wildcard_selects(filled: Stage) -> None:
    whole = json.loads(ask(filled, "GET", OBJECTS)[2])
    assert fields(filled, OBJECTS, "*") == whole
    assert fields(filled, OBJECTS, "items/*") == {"items": whole["items"]}


def test_fields_select_of_one_object_and_of_what_changes_it(filled: Stage, bucket: Any) -> None:
    assert fields(filled, f"{OBJECTS}/b", "name,size") == {"name": "b", "size": "1"}
    status, _, body = ask(filled, "PATCH", f"{OBJECTS}/b?fields=cacheControl", json.dumps({"cacheControl": "no-store"}).encode())
    assert (status, json.loads(body)) == (200, {"cacheControl": "no-store"})
    _, _, body = ask(filled, "POST", f"{OBJECTS}/b/rewriteTo/b/{SINK}/o/c?fields=done,resource/name", b"{}")
    assert json.loads(body) == {"done": True, "resource": {"name": "c"}}
    assert fields(filled, f"/storage/v1/b/{SINK}", "name,iamConfiguration/publicAccessPrevention") == {"name": SINK}
    assert ask(filled, "GET", f"{OBJECTS}/b?alt=media&fields=name")[2] == b"b", "of bytes nothing is selected"
    assert [blob.size for blob in bucket.list_blobs(fields="items(name,size),nextPageToken")] == [3, 3, 1, 1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("items(name,colour)", "colour"),
        ("items/name/first", "first"),
        ("name", "name"),
        ("items(name", "items(name"),
        ("items)", "items)"),
        ("items,", "items,"),
        ("items(name;size)", "items(name;size)"),
        ("kind, items", "kind, items"),
        ("", None),
    ],
)
def test_fields_that_are_not_there_or_cannot_be_read_are_refused(filled: Stage, text: str, named: str | None) -> None:
    status, _, body = ask(filled, "GET", f"{OBJECTS}?fields={quote(text)}")
    if named is None:
        assert (status, len(json.loads(body)["items"])) == (200, 3)
    else:
        assert (status, json.loads(body)["error"]["message"]) == (400, f"Invalid field selection {named}")


def test_wrong_fields_are_refused_before_anything_is_done(filled: Stage, bucket: Any) -> None:
    assert ask(filled, "POST", f"/upload/storage/v1/b/{SINK}/o?uploadType=media&name=new&fields=colour", b"x")[0] == 400
    assert bucket.get_blob("new") is None


# The XML API


def test_the_xml_etag_is_the_md5_of_what_has_one(stage: Stage, bucket: Any) -> None:
    md5 = f'"{hashlib.md5(b"hello").hexdigest()}"'
    assert ask(stage, "PUT", f"/{SINK}/x", b"hello")[1]["ETag"] == md5
    assert ask(stage, "GET", f"/{SINK}/x")[1]["ETag"] == md5
    assert ask(stage, "HEAD", f"/{SINK}/x")[1]["ETag"] == md5
    assert f"<ETag>{md5}</ETag>" in ask(stage, "GET", f"/{SINK}")[2].decode()
    bucket.blob("joined").compose([bucket.blob("x"), bucket.blob("x")])
    assert hashlib.md5(b"hellohello").hexdigest() not in ask(stage, "HEAD", f"/{SINK}/joined")[1]["ETag"]
    assert bucket.get_blob("x").etag != md5.strip('"'), "the JSON API has another"


def test_xml_answers_name_their_namespaces(stage: Stage, bucket: Any) -> None:
    bucket.blob("a/1").upload_from_string(b"x")
    root = ET.fromstring(ask(stage, "GET", f"/{SINK}?list-type=2&delimiter=/")[2])
    assert root.tag == "{http://doc.s3.amazonaws.com/2006-03-01}ListBucketResult"
    assert [node.text for node in root if node.tag.endswith("}KeyCount")] == ["1"]
    root = ET.fromstring(ask(stage, "POST", f"/{SINK}/big?uploads")[2])
    assert root.tag == "{http://s3.amazonaws.com/doc/2006-03-01/}InitiateMultipartUploadResult"
    upload = root.findtext("{*}UploadId")
    etag = ask(stage, "PUT", f"/{SINK}/big?partNumber=1&uploadId={upload}", b"x")[1]["ETag"]
    assert etag == f'"{hashlib.md5(b"x").hexdigest()}"'
    parts = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    root = ET.fromstring(ask(stage, "POST", f"/{SINK}/big?uploadId={upload}", parts.encode())[2])
    assert re.fullmatch(r"\{http://s3\.amazonaws\.com/doc/2006-03-01/\}CompleteMultipartUploadResult", root.tag)


def test_the_official_client_uploads_chunks_at_once(stage: Stage, bucket: Any, tmp_path: Any) -> None:
    (tmp_path / "big").write_bytes(DATA * 20)
    transfer_manager.upload_chunks_concurrently(
        str(tmp_path / "big"), bucket.blob("big"), chunk_size=5 << 20, max_workers=3, worker_type=transfer_manager.THREAD
    )
    assert bucket.get_blob("big").crc32c == crc32c(DATA * 20)

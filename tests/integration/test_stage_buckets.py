"""The stage's S3 and Cloud Storage are as strict as the services, seen through the official clients and the raw protocol."""

from __future__ import annotations

import base64
import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import pytest
from botocore.exceptions import ClientError
from google.api_core import exceptions

from tests.stages import SINK, SOURCE, fill, gcs_client, s3_client
from tools.emulators.gcs.objects import Attributes, ObjectStore
from tools.emulators.sigv4 import Keys
from tools.emulators.stage import KEYS, Stage

HARD = [
    "a b", "a%20b", "a+b", "q?x=1", "h#x", "d//e", "./x", "x/../y", "..", "é/ü/日本", "nl\nx", "a/", "a", "/lead", "tab\tx",
    "%2F", "back\\slash", "amp&<>\"'", "trail ", "~x", "🎉", "=;,@:$!*'()", "\x01ctl",
]  # fmt: skip


@pytest.fixture
def s3(stage: Stage) -> Iterator[Any]:
    fill(stage, {})
    with s3_client(stage) as client:
        yield client


@pytest.fixture
def bucket(stage: Stage) -> Iterator[Any]:
    fill(stage, {})
    with gcs_client(stage) as client:
        yield client.bucket(SINK)


def xml(stage: Stage, verb: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One raw request to the XML API."""
    return raw(stage, verb, path, body, {key.replace("_", "-"): value for key, value in headers.items()})


def raw(stage: Stage, verb: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """One request to Cloud Storage, its headers named as they are."""
    parts = urlsplit(stage.environment["STORAGE_EMULATOR_HOST"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(verb, path, body, headers)
        answer = connection.getresponse()
        told = {key.lower(): ", ".join(answer.headers.get_all(key, ())) for key in answer.headers}
        return answer.status, told, answer.read()
    finally:
        connection.close()


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4)).decode()


# S3


def test_every_legal_key_is_kept_byte_for_byte(s3: Any) -> None:
    for key in HARD:
        s3.put_object(Bucket=SOURCE, Key=key, Body=key.encode())
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=SOURCE, PaginationConfig={"PageSize": 4})
    listed = [found["Key"] for page in pages for found in page.get("Contents", ())]
    assert listed == sorted(HARD, key=str.encode)
    for key in HARD:
        assert s3.get_object(Bucket=SOURCE, Key=key)["Body"].read() == key.encode()
    s3.delete_object(Bucket=SOURCE, Key="a%20b")
    assert s3.get_object(Bucket=SOURCE, Key="a b")["Body"].read() == b"a b"


@pytest.mark.parametrize(
    ("keys", "code"),
    [(Keys("AKIAUNKNOWN", "x"), "InvalidAccessKeyId"), (Keys(KEYS.key_id, "wrong"), "SignatureDoesNotMatch")],
)
def test_strangers_are_refused(stage: Stage, s3: Any, keys: Keys, code: str) -> None:
    with s3_client(stage, keys) as stranger, pytest.raises(ClientError, match=code):
        stranger.list_objects_v2(Bucket=SOURCE)


def test_an_unsigned_request_is_refused(stage: Stage, s3: Any) -> None:
    parts = urlsplit(stage.environment["AWS_ENDPOINT_URL"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", f"/{SOURCE}?list-type=2")
    assert connection.getresponse().status == 403
    connection.close()


def test_a_wrong_content_md5_is_refused(s3: Any) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket=SOURCE, Key="k", Body=b"x", ContentMD5=wrong)
    assert "Contents" not in s3.list_objects_v2(Bucket=SOURCE)


def test_names_of_metadata_keep_their_underscores(stage: Stage, s3: Any) -> None:
    named = {"my_key": "v", "other-key": "w", "three_under_scores": "x"}
    s3.put_object(Bucket=SOURCE, Key="k", Body=b"x", Metadata=named)
    assert s3.head_object(Bucket=SOURCE, Key="k")["Metadata"] == named
    assert raw(stage, "PUT", f"/{SINK}/k", b"x", {"x-goog-meta-my_key": "v"})[0] == 200
    with gcs_client(stage) as client:
        assert client.bucket(SINK).get_blob("k").metadata == {"my_key": "v"}


def test_a_bucket_that_keeps_no_versions_names_none(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket=SOURCE, Key="k")["UploadId"]
    part = {"Bucket": SOURCE, "Key": "k", "UploadId": upload}
    etag = s3.upload_part(PartNumber=1, Body=b"x", **part)["ETag"]
    done = s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **part)
    assert "VersionId" not in done
    assert "VersionId" not in s3.head_object(Bucket=SOURCE, Key="k")
    assert s3.head_object(Bucket=SOURCE, Key="k", VersionId="null")["ContentLength"] == 1, "and yet it can be named"
    s3.put_bucket_versioning(Bucket=SOURCE, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=SOURCE, Key="k", Body=b"xy")["VersionId"]
    assert s3.head_object(Bucket=SOURCE, Key="k", VersionId=version)["ContentLength"] == 2


def test_a_listing_counts_its_keys_and_common_prefixes(s3: Any) -> None:
    for key in ("a/1", "a/2", "b"):
        s3.put_object(Bucket=SOURCE, Key=key, Body=b"x")
    assert s3.list_objects_v2(Bucket=SOURCE)["KeyCount"] == 3
    assert s3.list_objects_v2(Bucket=SOURCE, Delimiter="/")["KeyCount"] == 2
    assert s3.list_objects_v2(Bucket=SOURCE, Prefix="none")["KeyCount"] == 0


def test_the_source_of_a_copy_is_read_as_s3_reads_it(s3: Any) -> None:
    for key in ("a b", "a+b", "a;b,c", "ü"):
        s3.put_object(Bucket=SOURCE, Key=key, Body=key.encode())
    for source, wanted in (
        ("a+b", "a b"),
        ("a%20b", "a b"),
        ("a%2Bb", "a+b"),
        ("a;b,c", "a;b,c"),
        ("a%3Bb%2Cc", "a;b,c"),
        ("%C3%BC", "ü"),
    ):

        def write_raw(request: Any, source: str = source, **_: Any) -> None:
            request.headers.replace_header("x-amz-copy-source", f"{SOURCE}/{source}")

        s3.meta.events.register("before-sign.s3.CopyObject", write_raw, unique_id="raw")
        s3.copy_object(Bucket=SOURCE, Key="copy", CopySource={"Bucket": SOURCE, "Key": "boto3 would encode it"})
        s3.meta.events.unregister("before-sign.s3.CopyObject", unique_id="raw")
        assert s3.get_object(Bucket=SOURCE, Key="copy")["Body"].read() == wanted.encode()


def test_s3_faults_on_command(stage: Stage, s3: Any) -> None:
    stage.ledger.add_rule({"service": "s3", "method": "GetObject", "error": "SlowDown"})
    s3.put_object(Bucket=SOURCE, Key="k", Body=b"x")
    assert s3.get_object(Bucket=SOURCE, Key="k")["Body"].read() == b"x"  # boto3 tries again by itself
    assert stage.ledger.report()["s3"]["GetObject"] == 2


# Cloud Storage, JSON API


@pytest.mark.parametrize("name", [key for key in HARD if "\n" not in key and key != ".."])
def test_names_are_kept_by_the_json_api(bucket: Any, name: str) -> None:
    bucket.blob(name).upload_from_string(b"x", content_type="text/plain")
    assert [blob.name for blob in bucket.list_blobs()] == [name]
    assert bucket.blob(name).download_as_bytes() == b"x"


@pytest.mark.parametrize("name", ["..", ".", "a\nb", "a\rb", "x" * 1025, ".well-known/acme-challenge/x"])
def test_names_that_the_service_refuses(stage: Stage, name: str) -> None:
    store = ObjectStore()
    store.create_bucket(SINK)
    with pytest.raises(Exception, match="name is not valid"):
        store.put(SINK, name, b"", Attributes())


def test_generation_preconditions(bucket: Any) -> None:
    blob = bucket.blob("x")
    blob.upload_from_string(b"1", if_generation_match=0)
    first = blob.generation
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("x").upload_from_string(b"2", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("x").delete(if_generation_match=first + 1)
    blob.upload_from_string(b"2", if_generation_match=first)
    assert blob.generation > first
    with pytest.raises(exceptions.NotFound):
        bucket.blob("x", generation=first).download_as_bytes()
    blob.metadata = {"a": "b"}
    blob.patch(if_metageneration_match=1)
    assert blob.metageneration == 2
    with pytest.raises(exceptions.PreconditionFailed):
        blob.patch(if_metageneration_match=1)


def test_hashes_are_checked_on_the_way_in(bucket: Any) -> None:
    for field, value in (("crc32c", crc32c(b"other")), ("md5_hash", base64.b64encode(b"x" * 16).decode())):
        blob = bucket.blob("x")
        setattr(blob, field, value)
        with pytest.raises(exceptions.BadRequest, match="doesn't match"):
            blob.upload_from_string(b"data", checksum=None)
    assert not list(bucket.list_blobs())


def test_a_resumable_upload_in_chunks(bucket: Any) -> None:
    data = bytes(range(256)) * 4096
    blob = bucket.blob("big", chunk_size=256 * 1024)
    blob.upload_from_string(data, content_type="x/y")
    assert bucket.get_blob("big").crc32c == crc32c(data)
    assert bucket.blob("big").download_as_bytes(start=1000, end=1999) == data[1000:2000]


def test_listing_by_prefix_delimiter_offsets_and_pages(bucket: Any) -> None:
    names = ["a/1", "a/2", "a/b/3", "a/c/4", "b", "c"]
    for name in names:
        bucket.blob(name).upload_from_string(b"x")
    for size in (1, 2, 3, 10):
        assert [blob.name for blob in bucket.list_blobs(page_size=size)] == names
        found = bucket.list_blobs(prefix="a/", delimiter="/", page_size=size)
        assert [blob.name for blob in found] == ["a/1", "a/2"]
        assert found.prefixes == {"a/b/", "a/c/"}
    assert [blob.name for blob in bucket.list_blobs(start_offset="a/c", end_offset="c")] == ["a/c/4", "b"]


def test_copy_rewrite_move_compose(bucket: Any) -> None:
    blob = bucket.blob("x")
    blob.metadata = {"k": "v"}
    blob.upload_from_string(b"1", content_type="a/b")
    copied = bucket.copy_blob(blob, bucket, "copy")
    assert (copied.md5_hash, copied.content_type) == (blob.md5_hash, "a/b")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(blob, bucket, "copy", if_generation_match=0)
    assert bucket.blob("rewritten").rewrite(blob)[0] is None
    bucket.move_blob(copied, "moved", if_generation_match=0)
    joined = bucket.blob("joined")
    joined.compose([blob, bucket.blob("moved")])
    joined.reload()
    assert (joined.size, joined.md5_hash, joined.component_count) == (2, None, 2)
    assert {blob.name for blob in bucket.list_blobs()} == {"x", "rewritten", "moved", "joined"}


def test_soft_errors_and_lost_answers(stage: Stage, bucket: Any) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "objects.insert", "error": "UNAVAILABLE", "times": 2})
    bucket.blob("x").upload_from_string(b"1", if_generation_match=0)  # the client tries again by itself
    assert stage.ledger.report()["gcs"]["objects.insert"] == 3
    stage.ledger.add_rule({"service": "gcs", "method": "xml.put", "applied": True})
    with pytest.raises(http.client.RemoteDisconnected):
        xml(stage, "PUT", f"/{SINK}/y", b"2")
    assert bucket.blob("y").download_as_bytes() == b"2"


# Cloud Storage, XML API


def test_put_get_head_range_and_delete(stage: Stage, bucket: Any) -> None:
    hashes = f"crc32c={crc32c(b'hello')},md5={base64.b64encode(hashlib.md5(b'hello').digest()).decode()}"
    status, headers, _ = xml(
        stage, "PUT", f"/{SINK}/a%20b/%3F%25", b"hello", x_goog_hash=hashes, x_goog_if_generation_match="0",
        Content_Type="text/x", Cache_Control="no-store", x_goog_meta_who="me", x_goog_storage_class="NEARLINE",
    )  # fmt: skip
    assert (status, headers["x-goog-hash"]) == (200, hashes.replace(",", ", ")), "two lines, one list"
    blob = bucket.get_blob("a b/?%")
    assert (blob.content_type, blob.cache_control, blob.metadata) == ("text/x", "no-store", {"who": "me"})
    assert (blob.storage_class, str(blob.generation)) == ("NEARLINE", headers["x-goog-generation"])
    assert xml(stage, "PUT", f"/{SINK}/a%20b/%3F%25", b"x", x_goog_if_generation_match="0")[0] == 412
    status, headers, body = xml(stage, "GET", f"/{SINK}/a%20b/%3F%25", Range="bytes=1-3")
    assert (status, body, headers["content-range"]) == (206, b"ell", "bytes 1-3/5")
    assert xml(stage, "GET", f"/{SINK}/a%20b/%3F%25", Range="bytes=9-")[0] == 416
    status, headers, body = xml(stage, "HEAD", f"/{SINK}/a%20b/%3F%25")
    assert (status, headers["content-length"], body) == (200, "5", b"")
    assert xml(stage, "DELETE", f"/{SINK}/a%20b/%3F%25")[0] == 204
    assert xml(stage, "GET", f"/{SINK}/a%20b/%3F%25")[0] == 404


@pytest.mark.parametrize("bad", [f"crc32c={crc32c(b'other')}", "md5=AAAAAAAAAAAAAAAAAAAAAA==", "sha1=x"])
def test_a_wrong_hash_stores_nothing(stage: Stage, bucket: Any, bad: str) -> None:
    assert xml(stage, "PUT", f"/{SINK}/x", b"hello", x_goog_hash=bad)[0] == 400
    assert bucket.get_blob("x") is None


def test_a_multipart_upload(stage: Stage, bucket: Any) -> None:
    part = b"x" * (5 * 1024 * 1024)
    _, _, body = xml(stage, "POST", f"/{SINK}/big?uploads", x_goog_meta_a="b")
    upload = body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
    etags = [
        xml(stage, "PUT", f"/{SINK}/big?partNumber={n}&uploadId={upload}", data, x_goog_hash=f"crc32c={crc32c(data)}")[1]["etag"]
        for n, data in ((1, part), (2, b"tail"))
    ]

    def complete(*numbers: int) -> int:
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n - 1]}</ETag></Part>" for n in numbers)
        text = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
        return xml(stage, "POST", f"/{SINK}/big?uploadId={upload}", text.encode())[0]

    assert xml(stage, "PUT", f"/{SINK}/big?partNumber=3&uploadId={upload}", b"y", x_goog_hash=f"crc32c={crc32c(b'z')}")[0] == 400
    assert complete(2, 1) == 400
    assert complete(1, 2) == 200
    assert complete(1, 2) == 404
    blob = bucket.get_blob("big")
    assert (blob.size, blob.md5_hash, blob.component_count, blob.metadata) == (len(part) + 4, None, 2, {"a": "b"})
    assert blob.crc32c == crc32c(part + b"tail")


def test_a_small_part_but_the_last_is_refused(stage: Stage, bucket: Any) -> None:
    _, _, body = xml(stage, "POST", f"/{SINK}/big?uploads")
    upload = body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
    etags = [xml(stage, "PUT", f"/{SINK}/big?partNumber={n}&uploadId={upload}", b"small")[1]["etag"] for n in (1, 2)]
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1))
    status, _, told = xml(stage, "POST", f"/{SINK}/big?uploadId={upload}", f"<C>{parts}</C>".encode())
    assert (status, b"EntityTooSmall" in told) == (400, True)
    assert xml(stage, "DELETE", f"/{SINK}/big?uploadId={upload}")[0] == 204


def test_the_xml_listing_pages(stage: Stage, bucket: Any) -> None:
    for index in range(3):
        bucket.blob(f"k{index}").upload_from_string(b"x")
    _, _, body = xml(stage, "GET", f"/{SINK}?max-keys=2")
    assert (body.count(b"<Key>"), b"<IsTruncated>true" in body, b"<NextMarker>k1<" in body) == (2, True, True)
    _, _, body = xml(stage, "GET", f"/{SINK}?max-keys=2&marker=k1")
    assert (body.count(b"<Key>"), b"<IsTruncated>false" in body) == (1, True)


def test_bytes_may_be_kept_on_disk(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    store.create_bucket(SINK)
    store.put(SINK, "x", b"1", Attributes())
    store.put(SINK, "x", b"2", Attributes())
    assert store.get(SINK, "x").read() == b"2"
    assert len(list(tmp_path.iterdir())) == 1
    store.delete(SINK, "x")
    assert not list(tmp_path.iterdir())

"""What is told of archived objects: by a listing, by a refusal, by a HEAD; and what the transfer service leaves of them."""

from __future__ import annotations

import pytest

from cdn_worker.domain.archive import FOR_DAYS, FOR_GOOD, archived_by_head, left_by_service, refused_as_archived, unreadable
from cdn_worker.domain.listing_page import RESTORED, RESTORING, Listed
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.ports import Access
from cdn_worker.storage.s3 import S3Source
from tools.emulators.sigv4 import scope_of, signature


def listed(storage_class: str, restore: str = "") -> Listed:
    return Listed("k", 1, "e", "2026-11-21T03:00:00.000Z", storage_class, restore)


@pytest.mark.parametrize(
    ("one", "cold"),
    [
        (listed("STANDARD"), False),
        (listed("GLACIER_IR"), False),
        (listed("INTELLIGENT_TIERING"), False),
        (listed("INTELLIGENT_TIERING", RESTORING), True),
        (listed("GLACIER"), True),
        (listed("GLACIER", RESTORING), True),
        (listed("GLACIER", RESTORED), False),
        (listed("DEEP_ARCHIVE"), True),
        (listed("DEEP_ARCHIVE", RESTORED), False),
    ],
)
def test_what_a_listing_tells(one: Listed, cold: bool) -> None:
    assert (unreadable(one) is not None) == cold


@pytest.mark.parametrize(
    ("one", "included", "left"),
    [
        (listed("STANDARD"), (), False),
        (listed("GLACIER", RESTORED), (), True),
        (listed("GLACIER", RESTORED), ("DEEP_ARCHIVE",), True),
        (listed("GLACIER", RESTORED), ("STANDARD", "GLACIER"), False),
        (listed("GLACIER"), ("GLACIER",), True),
        (listed("DEEP_ARCHIVE", RESTORED), (), False),
        (listed("DEEP_ARCHIVE"), ("DEEP_ARCHIVE",), True),
    ],
)
def test_what_the_transfer_service_passes_over(one: Listed, included: tuple[str, ...], left: bool) -> None:
    assert (left_by_service(one, included) is not None) == left


def test_on_the_services_routes_a_restore_alone_does_not_help_glacier() -> None:
    told = left_by_service(listed("GLACIER", RESTORED), ())
    assert told is not None
    assert "--include-storage-classes" in told
    assert "route cdn" in told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<Error><Code>AccessDenied</Code><Message>InvalidObjectState</Message></Error>", None),
        (b"", None),
        (b"<Error><Code>InvalidObjectState</Code><StorageClass>GLACIER</StorageClass></Error>", FOR_DAYS),
        (
            b"<Code>InvalidObjectState</Code><StorageClass>INTELLIGENT_TIERING</StorageClass><AccessTier>ARCHIVE_ACCESS</AccessTier>",
            FOR_GOOD,
        ),
        (b"<Error><Code>InvalidObjectState</Code><Message>The action is not valid</Message></Error>", FOR_GOOD),
    ],
)
def test_what_a_refusal_tells(body: bytes, told: str | None) -> None:
    found = refused_as_archived(body)
    assert found is None if told is None else found is not None and told in found


@pytest.mark.parametrize(
    ("headers", "cold"),
    [
        ({}, False),
        ({"x-amz-storage-class": "STANDARD_IA"}, False),
        ({"x-amz-storage-class": "GLACIER"}, True),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, True),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="false", expiry-date="x"'}, False),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, False),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING", "x-amz-archive-status": "ARCHIVE_ACCESS"}, True),
    ],
)
def test_what_a_head_tells(headers: dict[str, str], cold: bool) -> None:
    assert (archived_by_head(headers) is not None) == cold


@pytest.mark.parametrize("token", ["", "a session's"])
def test_the_question_for_restores_is_signed(token: str) -> None:
    source = S3Source("http://s3.example", "bucket", "eu-west-1", now=lambda: 1_795_000_000.0)
    source.use(Access(aws=AwsKeys("AKIA", "secret", token)))
    request = source.page(prefix="p/", token="t+")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in request.headers)}
    assert headers["x-amz-optional-object-attributes"] == "RestoreStatus"
    scope = scope_of(headers["authorization"])
    assert scope is not None
    assert list(scope.signed) == sorted(scope.signed)
    assert "x-amz-optional-object-attributes" in scope.signed
    path, _, query = request.url.removeprefix("http://s3.example").partition("?")
    assert signature("GET", path, query, headers | {"host": "s3.example"}, scope, "secret") == scope.signature

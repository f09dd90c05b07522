"""Parsing a page of 1,000 listed keys: ours, boto3's way (what its paginator does to a body), and a tree of elements."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from xml.etree import ElementTree as ET

import botocore.session
from botocore.parsers import create_parser

from cdn_worker.domain.listing_page import parse_page

KEYS = 1000
ROUNDS = 7
PAGES = {"ours": 40, "tree of elements": 20, "boto3's parser": 4}
GOAL = 30.0


def page() -> bytes:
    """As S3 writes it."""
    row = (
        "<Contents><Key>logs/2026/11/21/part-{0:07}.json</Key><LastModified>2026-11-21T03:00:00.000Z</LastModified>"
        "<ETag>&quot;{0:032x}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
        "<Size>{0}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
    head = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        "<Prefix></Prefix><KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>"
        "<IsTruncated>true</IsTruncated><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=+%</NextContinuationToken>"
    )
    return (head + "".join(row.format(index) for index in range(KEYS)) + "</ListBucketResult>").encode()


def main() -> int:
    body = page()
    model = botocore.session.get_session().get_service_model("s3")
    shape = model.operation_model("ListObjectsV2").output_shape
    theirs = create_parser("rest-xml")
    answer = {"body": body, "headers": {}, "status_code": 200}

    def boto() -> None:
        assert len(theirs.parse(answer, shape)["Contents"]) == KEYS

    def ours() -> None:
        assert len(parse_page(body).entries) == KEYS

    def tree() -> None:
        assert len(ET.fromstring(body)) > KEYS  # noqa: S314 - made above

    work: dict[str, Callable[[], None]] = {"ours": ours, "tree of elements": tree, "boto3's parser": boto}
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):  # interleaved, so that a slow moment of the machine meets all of them
        for name, parse in work.items():
            began = time.process_time()
            for _ in range(PAGES[name]):
                parse()
            found[name].append((time.process_time() - began) / PAGES[name])
    middle = {name: statistics.median(times) for name, times in found.items()}
    print(f"\na page of {KEYS:,} listed keys, CPU ms (median of {ROUNDS})")
    for name, seconds in middle.items():
        print(f"{name:<20}{seconds * 1000:>8.2f}")
    ratio = middle["boto3's parser"] / middle["ours"]
    good = ratio >= GOAL
    print(f"ours is {ratio:.0f} times cheaper than boto3's parser; goal {GOAL:.0f}: {'met' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

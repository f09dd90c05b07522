"""Listing: 2,000,000 keys listed and compared by the real command in flat memory; a million of them beside boto3's paginator."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

KEYS = (200_000, 2_000_000)
BESIDE_BOTO = 1_000_000
BOTO_KEYS = 100_000
GOAL = 30.0
FLAT = 1.25


@dataclass(frozen=True)
class Used:
    cpu_s: float
    wall_s: float
    peak_mib: float


@contextmanager
def bucket(keys: int, present_percent: int) -> Iterator[str]:
    """A synthetic bucket's address."""
    words = [sys.executable, "-m", "tools.bench.copying.synthetic", str(keys), str(present_percent)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate()


def used(words: Sequence[str]) -> Used:
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"{words[:4]} failed")
    return Used(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024)


def ours(url: str, lanes: int = 8) -> Used:
    words = [
        sys.executable,
        "-m",
        "cdn_worker",
        "copy",
        "--dry-run",
        "--quiet",
        "--no-sign-request",
        "--listing-lanes",
        str(lanes),
    ]
    words += ["--source", "s3://bucket/logs/", "--destination", "gs://sink/logs/", "--s3-endpoint", url, "--gcs-endpoint", url]
    return used(words)


LISTING = """
import sys
from cdn_worker.http.engine import Engine
from cdn_worker.storage.s3 import S3Source
engine, bucket, keys = Engine(), S3Source(sys.argv[1], "bucket", "us-east-1"), 0
def ask(token=""):
    engine.exchange(bucket.page(prefix="logs/", token=token), take)
def take(answer):
    global keys
    page = bucket.page_of(answer)
    keys += len(page.entries)
    if page.token is not None:
        ask(page.token)
ask()
while engine.under_way:
    engine.turn()
print(keys)
"""
BOTO = """
import sys, boto3
from botocore import UNSIGNED
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", config=Config(signature_version=UNSIGNED))
print(sum(len(page["Contents"]) for page in s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="logs/")))
"""


def main() -> int:
    print(
        "\nlisting and planning by `cdn-worker copy --dry-run`, half of the keys equal at the sink (CPU and peak of its process)"
    )
    print(f"{'keys':>12}{'CPU s':>9}{'us a key':>10}{'peak MiB':>10}")
    found = {}
    for keys in KEYS:
        with bucket(keys, 50) as url:
            found[keys] = ours(url)
        print(f"{keys:>12,}{found[keys].cpu_s:>9.2f}{found[keys].cpu_s / keys * 1e6:>10.2f}{found[keys].peak_mib:>10.0f}")
    few, many = (found[keys].peak_mib for keys in KEYS)
    flat = many <= FLAT * few
    print(f"ten times the keys: {many / few:.2f} of the memory; at most {FLAT}: {'met' if flat else 'MISSED'}")
    with bucket(BESIDE_BOTO, 0) as url:
        whole, mine = ours(url), used([sys.executable, "-c", LISTING, url])
    with bucket(BOTO_KEYS, 0) as url:
        theirs = used([sys.executable, "-c", BOTO, url])
    print(f"\nlisting {BESIDE_BOTO:,} keys over HTTP, the process's start included ({BOTO_KEYS:,} by boto3)")
    print(f"{'who':<34}{'CPU s':>9}{'us a key':>10}{'peak MiB':>10}")
    rows = {"ours, listing alone": (mine, BESIDE_BOTO), "ours, compared with an empty sink": (whole, BESIDE_BOTO)}
    rows["boto3's paginator, listing alone"] = (theirs, BOTO_KEYS)
    for who, (one, keys) in rows.items():
        print(f"{who:<34}{one.cpu_s:>9.2f}{one.cpu_s / keys * 1e6:>10.2f}{one.peak_mib:>10.0f}")
    ratio = theirs.cpu_s / BOTO_KEYS / (mine.cpu_s / BESIDE_BOTO)
    print(f"listing alone is {ratio:.0f} times cheaper a key; goal {GOAL:.0f}: {'met' if ratio >= GOAL else 'MISSED'}")
    return 0 if flat and ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

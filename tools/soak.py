"""A long copy under faults: 500,000 objects, one exchange in twenty goes wrong; memory and descriptors must stay flat.

`python -m tools.soak [--objects 500000] [--fault-percent 5]`: `cdn-worker copy` as users run it, over servers in this process. It
fails when an object that is missing has no verdict that says so, or is not done by the same command run again; when one differs;
when memory or descriptors grow with the number of objects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tools.bench.copying.synthetic import Synthetic
from tools.emulators.cdn import STATUSES, Found, answered, misbehaved, refusal
from tools.emulators.gcs.objects import ObjectStore
from tools.emulators.gcs.server import Gcs
from tools.emulators.ledger import Ledger, Rule
from tools.emulators.rawhttp import RawRequest, RawResponse, RawServer
from tools.emulators.web import Request, Response, WebServer, application

BODY = random.Random(1).randbytes(2048)
ETAG = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
SOURCE, SINK = "source-bucket", "sink-bucket"
SOURCE_FAULTS = ("INTERNAL", "BAD_GATEWAY", "TRUNCATED", "RESET", "NO_LENGTH", "TOO_LONG", "COMPRESSED", "CHANGED_ETAG", "WHOLE")
SINK_FAULTS = ("INTERNAL", "REQUEST_TIMEOUT", "CORRUPT", "LOST")
CONNECTIONS = "64"
"""Far fewer than the pace would climb to some day: what it costs to have more of them is not what is looked for."""
SAMPLE_S = 2.0
SLOPE_MAX = 4.0
"""KiB for each 1,000 objects, over the second half: a tenth of the smallest thing that Python could keep of each object."""
GROWTH_MAX = 32
"""Descriptors between the first half and the second, each by its median."""


@dataclass
class Servers:
    """Source, CDN and sink; each exchange of an object meets a fault with this share."""

    objects: int
    share: float
    met: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw, self._lock = random.Random(2), threading.Lock()
        self.ledger, self.store = Ledger(), ObjectStore()
        self.store.create_bucket(SINK)
        self._gcs = Gcs(self.ledger, self.store)
        self._listing = Synthetic(self.objects, 0, len(BODY), ETAG)
        self._found = Found(BODY, {"Content-Type": "application/octet-stream"}, f'"{ETAG}"')
        self.s3, self.cdn = RawServer(self._source).start(), RawServer(self._through_cdn).start()
        self.sink = WebServer(application(self._write), threads=24).start()
        self._gcs.at(self.sink.url)

    def stop(self) -> None:
        for server in (self.s3, self.cdn, self.sink):
            server.stop()

    def _fault(self, kinds: Sequence[str], side: str) -> str:
        with self._lock:
            if self._draw.random() >= self.share:
                return ""
            kind = self._draw.choice(kinds)
            self.met[f"{side} {kind}"] += 1
            return kind

    def _source(self, request: RawRequest) -> RawResponse:
        if "list-type" in request.target:
            return self._listing.handle(request)
        return answered(request, self._found)

    def _through_cdn(self, request: RawRequest) -> RawResponse:
        kind = self._fault(SOURCE_FAULTS, "cdn")
        if kind in STATUSES:
            return refusal(*STATUSES[kind])
        return misbehaved(answered(request, self._found), self._found, Rule("cdn", "GET", error=kind) if kind else None)

    def _write(self, request: Request) -> Response:
        kind = self._fault(SINK_FAULTS, "gcs") if request.method == "PUT" else ""
        # A handler of its own for each fault: the stage's rules are counted, and this is many threads.
        if kind == "LOST":
            response = self._gcs.handle(request)
            response.hang_up = True
            return response
        if kind == "CORRUPT":
            headers = {name: value for name, value in request.headers.items() if name != "x-goog-hash"}
            body = bytes([request.body[0] ^ 1]) + request.body[1:]
            return self._gcs.handle(Request(request.method, request.path, request.query, headers, body, request.raw_query))
        if kind:
            return Response(500 if kind == "INTERNAL" else 408, b"", {})
        return self._gcs.handle(request)


@dataclass(frozen=True)
class Sample:
    objects: int
    memory_kib: int
    descriptors: int
    of_each: tuple[int, ...] = ()


def family(pid: int) -> Iterator[int]:
    """A process and all under it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def sample(pid: int, objects: int) -> Sample:
    """Resident memory and open descriptors of a family. Raises OSError when one of it has just gone."""
    each, descriptors = list[int](), 0
    for one in family(pid):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
        each.append(int(found[1]) if found else 0)
        descriptors += len(list(Path(f"/proc/{one}/fd").iterdir()))
    return Sample(objects, sum(each), descriptors, tuple(each))


def slope(samples: Sequence[Sample]) -> float:
    """KiB for each 1,000 objects, by least squares."""
    count = len(samples)
    mean_x, mean_y = sum(one.objects for one in samples) / count, sum(one.memory_kib for one in samples) / count
    spread = sum((one.objects - mean_x) ** 2 for one in samples)
    return 1000 * sum((one.objects - mean_x) * (one.memory_kib - mean_y) for one in samples) / spread if spread else 0.0


def soak(objects: int, share: float, folder: Path) -> int:
    servers = Servers(objects, share)
    command = [sys.executable, "-m", "cdn_worker", "copy", "--source", f"s3://{SOURCE}/", "--destination", f"gs://{SINK}/"]
    command += [
        "--cdn-url",
        f"http://{servers.cdn.address}/",
        "--s3-endpoint",
        f"http://{servers.s3.address}",
        "--no-sign-request",
    ]
    command += ["--gcs-endpoint", servers.sink.url, "--processes", "1", "--connections", CONNECTIONS, "--quiet", "--verdicts"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    samples: list[Sample] = []
    there = servers.store.bucket(SINK).objects
    with (folder / "copy.log").open("wb") as log:
        process = subprocess.Popen([*command, "verdicts.ndjson"], cwd=folder, env=environment, stderr=log, stdout=log)
        while process.poll() is None:
            time.sleep(SAMPLE_S)
            try:
                samples.append(sample(process.pid, len(there)))
            except OSError:
                continue
            if len(samples) % 30 == 0:
                print(f"{samples[-1]}", flush=True)
    print((folder / "copy.log").read_text()[-1500:])
    if process.returncode not in (0, 1):
        servers.stop()
        print(f"the copy ended with {process.returncode}, which is no end of a run: its last words are above")
        return 1
    with (folder / "verdicts.ndjson").open(encoding="utf-8") as lines:
        failed = sum(json.loads(line)["verdict"] == "failed" for line in lines)
    missing = objects - len(there)
    print(f"exit {process.returncode}; {len(there):,} of {objects:,} objects at the sink, {failed:,} verdicts say failed")
    again = process.returncode
    if failed:
        # What met a fault at each of its tries is named; whoever reads that runs the command again.
        again = subprocess.run([*command, "again.ndjson"], cwd=folder, env=environment, check=False).returncode
    servers.stop()
    wrong = sum(1 for one in there.values() if one.read() != BODY)
    print(f"at the end: exit {again}; {len(there):,} of {objects:,} objects at the sink, {wrong:,} of them wrong")
    print(f"faults met {sum(servers.met.values()):,}: {dict(servers.met)}")
    flat = _is_flat(samples, objects)
    accounted = process.returncode == (1 if failed else 0) and missing == failed
    return 0 if accounted and again == 0 and len(there) == objects and not wrong and flat else 1


def _is_flat(samples: Sequence[Sample], objects: int) -> bool:
    """Whether memory and descriptors stay as they are once it has got going. Tells the figures."""
    whole = max((len(one.of_each) for one in samples), default=0)
    running = [one for one in samples if len(one.of_each) == whole and all(one.of_each)]  # not those of its end
    half = [one for one in running if objects / 2 < one.objects < objects]
    before = [one for one in running if objects / 10 < one.objects <= objects / 2]
    if len(half) <= 2 or not before:
        print(f"too few samples of memory and descriptors: {len(half)} in the second half; give it more --objects")
        return False
    grows = slope(half)
    more = round(median(one.descriptors for one in half) - median(one.descriptors for one in before))
    peak = max(one.memory_kib for one in samples) / 1024
    print(f"memory {peak:.0f} MiB at most; second half {grows:+.2f} KiB / 1,000 objects")
    print(f"descriptors {max(one.descriptors for one in samples)} at most; second half against first {more:+d}")
    return grows <= SLOPE_MAX and more <= GROWTH_MAX


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=500_000)
    parser.add_argument("--fault-percent", type=float, default=5.0)
    given = parser.parse_args()
    if given.objects < 1 or not 0 <= given.fault_percent <= 100:
        parser.error("--objects is at least 1, and --fault-percent 0 to 100")
    with tempfile.TemporaryDirectory(prefix="sts-manager-soak-") as name:
        return soak(given.objects, given.fault_percent / 100, Path(name))


if __name__ == "__main__":
    sys.exit(main())

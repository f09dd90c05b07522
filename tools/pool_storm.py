"""`make storm`: the worker pool under kills, doubled, shuffled and late messages, and a CDN that fails; then all is counted.

Everything is real but the clouds: the daemon, the workers and the killing are processes, and the stage plays S3, CloudFront,
Cloud Storage and Pub/Sub.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

from tools.emulators.stage import PROJECT, Stage

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SINK, CONTROL = "storm-source", "storm-sink", "storm-control"
CDN_FAULTS = (
    "FORBIDDEN",
    "UNAVAILABLE",
    "TRUNCATED",
    "RESET",
    "INTERNAL",
    "CHANGED_ETAG",
    "NO_LENGTH",
    "NOT_FOUND",
    "WHOLE",
    "BAD_GATEWAY",
)
SECONDS_MAX = 900.0
THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What there is to move, and what goes wrong. faulty: of the CDN's answers, one in so many."""

    prefixes: int = 200
    objects: int = 20_000
    workers: int = 3
    kill_every_s: float = 3.0
    faulty: int = 50
    duplicates: float = 0.1
    delay_s: float = 1.0
    kills_max: int = 1_000_000
    queue: str = "pubsub"
    lease_s: float = 10.0
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it. wrong: names at the sink that are missing, surplus or another object."""

    code: int
    seconds: float
    kills: int
    statuses: Mapping[str, int]
    counters: Mapping[str, int]
    faults: int
    wrong: list[str] = field(default_factory=list)
    attempts: int = 0
    left: int = 0


def bodies(storm: Storm) -> dict[str, bytes]:
    """Small objects, most of them in a few prefixes, as it is in life; some names are hard."""
    draw = random.Random(storm.seed)
    found: dict[str, bytes] = {}
    for index in range(storm.objects):
        prefix = min(int(storm.prefixes * draw.random() ** 2), storm.prefixes - 1) if index >= storm.prefixes else index
        name = draw.choice(["plain", "a b", "ü+%?#", "x/../y"])
        found[f"p{prefix:04}/{name}/{index}"] = f"{storm.seed} {index} ".encode() * draw.randrange(1, 40)
    return found


def rage(storm: Storm, stage: Stage, folder: Path, objects: Mapping[str, bytes]) -> Result:
    """Load the prefixes, start the daemon and the workers, kill workers until the daemon is done, and count."""
    environment = {**os.environ, **stage.environment, "PYTHONPATH": str(ROOT), "LOGLEVEL": "WARNING"}
    address = f"sqlite:///{folder}/queue.db"
    if storm.queue == "pubsub":
        address = f"pubsub://{PROJECT}/storm?board=gs://{CONTROL}/board.json"
        _program(folder, environment, "cdn_worker", "prepare-queue", "--queue", address, "--lease", str(storm.lease_s))
    prefixes = sorted({f"{key.partition('/')[0]}/" for key in objects})
    (folder / "prefixes.json").write_text(json.dumps(prefixes))
    _program(folder, environment, "sts_manager", "prepare-tables", "--job-prefix-source-file", "prefixes.json")
    _misbehave(storm, stage)
    began = time.monotonic()
    with ExitStack() as stack:
        daemon = stack.enter_context(_running(folder, environment, _daemon_words(address)))
        cdn = _cdn_words(stage)
        crew = [
            _Worker(folder, environment, [*cdn, "--queue", address, "--lease", str(storm.lease_s)]) for _ in range(storm.workers)
        ]
        for one in crew:
            stack.callback(one.end)
        kills = _killed(storm, daemon, crew, began)
    seconds = time.monotonic() - began
    if daemon.returncode:
        print(*(folder / "daemon.log").read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
    faults = sum(rule.fired for rule in stage.ledger.rules)
    stage.ledger.rules.clear()
    result = _counted(folder, daemon.returncode, seconds, kills)
    result.faults, result.wrong = faults, differences(stage, objects)
    return result


def delta(storm: Storm, stage: Stage, folder: Path, objects: Mapping[str, bytes]) -> tuple[int, int, int, list[str]]:
    """A hundredth of the objects change, half as many are new; a delta pass: (wanted, read, written, wrong)."""
    stage.ledger.change({"pubsub.duplicates": 0.0})
    names = sorted(objects)
    changes = {name: b"changed " + objects[name] for name in names[:: max(1, len(names) // (storm.objects // 200))]}
    changes |= {f"{name} new": b"new" for name in names[:: max(1, len(names) // (storm.objects // 400))]}
    put(stage, changes)
    environment = {**os.environ, **stage.environment, "PYTHONPATH": str(ROOT), "LOGLEVEL": "WARNING"}
    before = stage.ledger.calls.copy()
    _program(folder, environment, "sts_manager", "rerun", "--all")
    words = [*_daemon_words(f"sqlite:///{folder}/queue.db"), *_cdn_words(stage)[8:]]
    words[words.index("--workers") + 1] = "1"
    with _running(folder, environment, words) as daemon:
        if daemon.wait(timeout=SECONDS_MAX):
            print(*(folder / "daemon.log").read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
    spent = stage.ledger.calls - before
    jobs = len({name.partition("/")[0] for name in changes})
    written = spent["gcs", "xml.put"] + spent["gcs", "objects.insert.session"]
    return len(changes), spent["cdn", "GET"] - jobs, written, differences(stage, {**objects, **changes})


def _misbehave(storm: Storm, stage: Stage) -> None:
    stage.ledger.change(
        {
            "pubsub.duplicates": storm.duplicates,
            "pubsub.reorder": True,
            "pubsub.delay_seconds": storm.delay_s,
            "pubsub.pull_seconds": 0.5,
        }
    )
    for index, error in enumerate(CDN_FAULTS if storm.faulty else ()):
        every = storm.faulty * len(CDN_FAULTS)
        stage.ledger.add_rule(
            {"service": "cdn", "method": "GET", "error": error, "after": index * storm.faulty, "every": every, "times": 0}
        )


def _daemon_words(address: str) -> list[str]:
    words = ["sts_manager", "run", "--until-done", "--route", "cdn", "--workers", "0", "--queue", address]
    words += ["--source-bucket", f"s3://{SOURCE}", "--destination-bucket", f"gs://{SINK}"]
    return [*words, "--job-interval", "0.5", "--metrics-interval", "0.5", "--sleep-timeout", "0.5", "--retry-delay", "1"]


def _cdn_words(stage: Stage) -> list[str]:
    variables = stage.environment
    words = ["cdn_worker", "run", "--processes", "1", "--pages-per-task", "1", "--keys-per-task", "20"]
    words += ["--cdn-url", f"http://{variables['CDN_EMULATOR_HOST']}/{{bucket}}/"]
    words += ["--cdn-key-pair-id", variables["CDN_KEY_PAIR_ID"]]
    return [*words, "--cdn-private-key-file", variables["CDN_PRIVATE_KEY_FILE"]]


class _Worker:
    """One worker program; it can be killed, with all its processes, and is started again."""

    def __init__(self, folder: Path, environment: Mapping[str, str], words: list[str]) -> None:
        self._folder, self._environment, self._words = folder, environment, words
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self._words],
                cwd=self._folder,
                env=dict(self._environment),
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = self._started()

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _killed(storm: Storm, daemon: subprocess.Popen[bytes], crew: list[_Worker], began: float) -> int:
    """Kill one worker after the other until the daemon ends; how many."""
    draw = random.Random(storm.seed)
    kills = 0
    while daemon.poll() is None:
        if time.monotonic() - began > SECONDS_MAX:
            daemon.kill()
        try:
            daemon.wait(timeout=storm.kill_every_s * draw.uniform(0.5, 1.5))
        except subprocess.TimeoutExpired:
            if kills < storm.kills_max:
                draw.choice(crew).kill()
                kills += 1
    return kills


def _program(folder: Path, environment: Mapping[str, str], module: str, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, env=dict(environment), check=True, stdout=subprocess.DEVNULL
    )


@contextmanager
def _running(folder: Path, environment: Mapping[str, str], words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "daemon.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=dict(environment), stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _counted(folder: Path, code: int, seconds: float, kills: int) -> Result:
    """What the job table says."""
    sums = ", ".join(
        f"sum({name}) AS {name}" for name in ("objects_found", "objects_copied", "objects_skipped", "objects_failed")
    )
    with closing(sqlite3.connect(folder / "sts_manager.db")) as store:
        store.row_factory = sqlite3.Row
        statuses = {str(row[0]): int(row[1]) for row in store.execute("SELECT status, count(*) FROM sts_job GROUP BY status")}
        row = store.execute(f"SELECT {sums}, sum(attempt) AS attempts FROM sts_job").fetchone()
    with closing(sqlite3.connect(folder / "sts_manager_pool.db")) as ledger:
        left = sum(ledger.execute(f"SELECT count(*) FROM {one}").fetchone()[0] for one in ("shard", "task", "early", "parked"))
    counters = {name: int(row[name]) for name in row.keys() if name != "attempts"}  # noqa: SIM118 - a Row has no other
    return Result(
        code=code,
        seconds=seconds,
        kills=kills,
        statuses=statuses,
        counters=counters,
        faults=0,
        attempts=int(row["attempts"]),
        left=left,
    )


def fill(stage: Stage, objects: Mapping[str, bytes]) -> None:
    """The buckets, and the source's objects."""
    with closing(_s3(stage)) as client, closing(_storage(stage)) as gcs:
        client.create_bucket(Bucket=SOURCE)
        for name in (SINK, CONTROL):
            gcs.create_bucket(name)
    put(stage, objects)


def put(stage: Stage, objects: Mapping[str, bytes]) -> None:
    with closing(_s3(stage)) as client, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda one: client.put_object(Bucket=SOURCE, Key=one[0], Body=one[1]), objects.items()))


def _s3(stage: Stage) -> Any:
    variables = stage.environment
    return boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(max_pool_connections=THREADS),
    )


def differences(stage: Stage, objects: Mapping[str, bytes]) -> list[str]:
    """By name, size, MD5 and recorded ETag, as the sink's listing has them."""
    with closing(_storage(stage)) as gcs:
        blobs = {blob.name: blob for blob in gcs.list_blobs(SINK)}
    wrong = sorted(set(blobs) ^ set(objects))
    for name in set(blobs) & set(objects):
        md5 = hashlib.md5(objects[name], usedforsecurity=False)
        same = blobs[name].size == len(objects[name]) and blobs[name].metadata["x-goog-source-etag"] == md5.hexdigest()
        if not same or bytes.fromhex(md5.hexdigest()) != _md5(blobs[name]):
            wrong.append(name)
    return wrong


def _md5(blob: Any) -> bytes:
    return base64.b64decode(blob.md5_hash)


def _storage(stage: Stage) -> Any:
    return storage.Client(
        project=PROJECT,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": stage.environment["STORAGE_EMULATOR_HOST"]},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, one in Storm.__dataclass_fields__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(one.default), default=one.default)
    parser.add_argument("--delta", action="store_true", help="then change some objects, add some, and let all prefixes run again")
    given = vars(parser.parse_args())
    with_delta = given.pop("delta")
    storm = Storm(**given)
    objects = bodies(storm)
    with tempfile.TemporaryDirectory(prefix="sts-manager-storm-") as name:
        stage = Stage(only=("s3", "gcs", "cdn", "pubsub"))
        try:
            fill(stage, objects)
            print(f"{len(objects):,} objects under {storm.prefixes:,} prefixes; the storm begins", flush=True)
            result = rage(storm, stage, Path(name), objects)
            after = delta(storm, stage, Path(name), objects) if with_delta else None
        finally:
            stage.stop()
    settled = result.counters["objects_copied"] + result.counters["objects_skipped"]
    print(
        f"ended with exit code {result.code} after {result.seconds:,.0f} s, {result.kills} kills and {result.faults:,} CDN faults"
    )
    print(f"prefixes   {dict(result.statuses)}, {result.attempts:,} attempts")
    print(f"counters   {dict(result.counters)}: {settled:,} of {len(objects):,} settled")
    print(f"sink       {len(result.wrong):,} missing, surplus or different {result.wrong[:3] or ''}")
    print(f"left over  {result.left:,} rows of the pool's ledger")
    if after is not None:
        wanted, read, written, wrong = after
        print(f"delta      {wanted:,} new or changed: {read:,} read, {written:,} written, {len(wrong):,} wrong at the sink")
        result.wrong += wrong if (read, written) == (wanted, wanted) else ["more was moved than had changed"]
    return 0 if not result.code and not result.wrong and settled == len(objects) else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: the real daemon moves real objects, S3 to Cloud Storage, everything local; then everything is checked.

It starts the rehearsal stage as a process of its own, fills the S3 bucket with Python's own standard library, a few large
objects and a few hard names, runs the commands a user would run, and compares every object from outside. With
`STORE=bigquery` the job table is in BigQuery and the heartbeat goes to Cloud Monitoring, both of the stage. `ROUTE=cdn` sends the
prefixes down the built-in worker pool, through CloudFront; `QUEUE=pubsub` has its tasks in Pub/Sub. `ROUTE=sts-url-list` has the
service fetch from CloudFront, by lists of URLs. `ROUTE=copy` is `tools/demo_copy.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import grpc
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import monitoring_v3 as monitoring
from google.cloud import storage  # type: ignore[attr-defined]
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SINK, CONTROL = "demo-source", "demo-sink", "demo-control"
HARD_NAMES = [
    "a b",
    "100%",
    "a%20b",
    "a+b",
    "what?x=1",
    "c#",
    "double//slash",
    "x/../y",
    "./dot",
    "日本語",
    "🎉",
    "folder/",
    "tab\tx",
]
LARGE = 3
LARGE_BYTES = 8 * 1024 * 1024
THREADS = 8
OBJECTS_MAX = 2_400
SOURCE_BYTES_MAX = 1024 * 1024
STORES = ("sqlite", "bigquery")
ROUTES = ("sts-s3", "sts-url-list", "cdn")
QUEUES = ("sqlite", "pubsub")
HEARTBEAT = (
    "status/waiting",
    "status/running",
    "status/done",
    "status/error",
    "metrics/stalled",
    "metrics/objects",
    "metrics/bytes",
    "metrics/live_operations",
    "metrics/oldest_pass_age",
    "metrics/breaker_open",
    "metrics/degraded",
)
LEFT_OUT = ("site-packages", "dist-packages", "__pycache__", "lib-dynload")
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


def main(store_kind: str, route: str, queue: str) -> int:
    for name, given, known in (("STORE", store_kind, STORES), ("ROUTE", route, (*ROUTES, "copy")), ("QUEUE", queue, QUEUES)):
        if given not in known:
            raise SystemExit(f"{name}={given}: the demo knows {' and '.join(known)}")
    in_bigquery = store_kind == "bigquery"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sts-manager-demo-") as name, stage(Path(name)) as environment:
        folder = Path(name)
        os.environ.update(environment)
        if in_bigquery:
            os.environ["STS_MANAGER_STORE"] = "bigquery"
        title("1. Fill the S3 bucket")
        objects = collect()
        upload(objects)
        console.print(f"{len(objects):,} objects, {sum(map(len, objects.values())) / 2**20:,.1f} MiB in s3://{SOURCE}")
        title("2. Load the prefixes")
        prefixes = sorted({prefix_of(key) for key in objects})
        (folder / "prefixes.json").write_text(json.dumps(prefixes, indent=1))
        run(folder, "prepare-tables", "--job-prefix-source-file", "prefixes.json")
        title("3. Run until done")
        migrating = time.monotonic()
        if route == "cdn" and queue == "pubsub":
            client = storage.Client(project=os.environ["GOOGLE_CLOUD_PROJECT"], credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
            client.bucket(CONTROL).create()
            run(folder, "prepare-queue", "--queue", pubsub_address(), program="cdn-worker")
        words = list_words() if route == "sts-url-list" else pool_words(queue) if route == "cdn" else []
        words += ["--publish-heartbeat"] if in_bigquery else []
        code = migrate(folder, len(prefixes), len(objects), words)
        took = time.monotonic() - migrating
        title("4. What the operator sees")
        run(folder, "status")
        run(folder, "history", "json/")
        run(folder, "query", "throughput")
        if in_bigquery:
            title("   The heartbeat, as Cloud Monitoring has it")
            heartbeat()
        title("5. Check every object from outside")
        wrong = compare(objects)
        store = None if in_bigquery else keep_store(folder)
    total = time.monotonic() - began
    title("Summary")
    console.print(f"prefixes        {len(prefixes):,}", f"objects         {len(objects):,}", sep="\n")
    console.print(f"identical       {len(objects) - len(wrong):,} (name, bytes and source ETag compared)")
    console.print(f"wrong           {len(wrong):,} {wrong[:5] or ''}")
    console.print(f"migration       {took:,.1f} s of {total:,.1f} s in all")
    if store is not None:
        explore(store)
    return 1 if code or wrong else 0


def explore(store: Path) -> None:
    """What to type next."""
    console.print(f"\nExplore the store: sqlite3 {store}", "  SELECT status, count(*) FROM sts_job GROUP BY status;", sep="\n")
    console.print("  SELECT prefix, objects_copied, bytes_copied FROM sts_job ORDER BY bytes_copied DESC LIMIT 5;")
    console.print("  SELECT timestamp, status, objects_copied FROM sts_job_history WHERE prefix = 'json/';")


def heartbeat() -> None:
    """Every point of a few series, read back with the official client."""
    channel = grpc.insecure_channel(os.environ["MONITORING_EMULATOR_HOST"])
    client: Any = monitoring.MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
    now = datetime.now(UTC)
    interval = {"start_time": now - timedelta(hours=1), "end_time": now + timedelta(minutes=1)}
    for name in HEARTBEAT:
        metric = f"custom.googleapis.com/sts_job_manager/{name}"
        wanted = {"name": f"projects/{os.environ['GOOGLE_CLOUD_PROJECT']}", "filter": f'metric.type = "{metric}"'}
        for series in client.list_time_series(request=wanted | {"interval": interval}):
            labels = ",".join(f"{key}={value}" for key, value in series.metric.labels.items())
            shown = [f"{point.interval.end_time:%H:%M:%S} {point.value.int64_value:,}" for point in reversed(series.points)]
            console.print(f"{name + (f'{{{labels}}}' if labels else ''):<38} {'   '.join(shown)}", markup=False)


@contextmanager
def stage(folder: Path) -> Iterator[dict[str, str]]:
    """The stage as a process; its environment, once it is ready. It is stopped whatever happens."""
    env_file = folder / "stage.env"
    command = [sys.executable, "-m", "tools.emulators", "up", "--env-file", str(env_file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("the stage did not start; its message stands above")
        pairs = (shlex.split(line)[1].split("=", 1) for line in env_file.read_text().splitlines())
        yield {pair[0]: pair[1] for pair in pairs}
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


def collect() -> dict[str, bytes]:
    """The standard library's own source files, a few large objects, a few hard names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    objects: dict[str, bytes] = {}
    for path in sorted(library.rglob("*")):
        relative = path.relative_to(library)
        if not path.is_file() or any(part in LEFT_OUT for part in relative.parts) or len(objects) == OBJECTS_MAX:
            continue
        if path.stat().st_size <= SOURCE_BYTES_MAX:
            key = relative.as_posix()
            objects[key if "/" in key else f"modules/{key}"] = path.read_bytes()
    for index in range(LARGE):
        seed = hashlib.sha256(str(index).encode()).digest()
        objects[f"large/{index}.bin"] = (seed * (LARGE_BYTES // len(seed) + 1))[:LARGE_BYTES]
    objects |= {f"hard names/{name}": name.encode() for name in HARD_NAMES}
    objects["hard names/empty"] = b""
    return objects


def prefix_of(key: str) -> str:
    return key[: key.index("/") + 1]


def upload(objects: dict[str, bytes]) -> None:
    client: Any = boto3.client("s3", config=Config(max_pool_connections=THREADS))
    client.create_bucket(Bucket=SOURCE)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda item: client.put_object(Bucket=SOURCE, Key=item[0], Body=item[1]), objects.items()))
    sink().create()


def sink() -> Any:
    client = storage.Client(project=os.environ["GOOGLE_CLOUD_PROJECT"], credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    return client.bucket(SINK)


def run(folder: Path, *words: str, program: str = "sts-manager") -> int:
    """A command, shown as typed."""
    console.print(f"$ {program} {shlex.join(words)}", style="bold", markup=False)
    module = program.replace("-", "_")
    ran = subprocess.run([sys.executable, "-m", module, *words], cwd=folder, env=environment(), check=False)
    return ran.returncode


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "LOGLEVEL": os.environ.get("LOGLEVEL", "INFO")}


def cdn_words() -> list[str]:
    """The flags that name CloudFront, and the key with which its URLs are signed."""
    words = ["--cdn-url", f"http://{os.environ['CDN_EMULATOR_HOST']}/{SOURCE}/"]
    words += ["--cdn-key-pair-id", os.environ["CDN_KEY_PAIR_ID"]]
    return [*words, "--cdn-private-key-file", os.environ["CDN_PRIVATE_KEY_FILE"]]


def list_words() -> list[str]:
    """The flags that have the service fetch from CloudFront, by lists of URLs."""
    return [*cdn_words(), "--route", "sts-url-list"]


def pool_words(queue: str) -> list[str]:
    """The flags that send prefixes down the worker pool, through CloudFront."""
    words = [*cdn_words(), "--workers", "2"]
    words += ["--queue", pubsub_address()] if queue == "pubsub" else []
    return words


def pubsub_address() -> str:
    return f"pubsub://{os.environ['GOOGLE_CLOUD_PROJECT']}/demo-pool?board=gs://{CONTROL}/board.json"


def migrate(folder: Path, prefixes: int, objects: int, more: list[str]) -> int:
    """`run --until-done`, with a line of live progress from its log."""
    words = ["run", "--source-bucket", f"s3://{SOURCE}", "--destination-bucket", f"gs://{SINK}", "--until-done"]
    words += ["--job-interval", "0.5", "--metrics-interval", "0.5", "--sleep-timeout", "0.5"]
    words += more
    console.print(f"$ sts-manager {shlex.join(words)}", style="bold", markup=False)
    command = [sys.executable, "-m", "sts_manager", *words]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            show(line, prefixes, objects)
    return process.returncode


def show(line: str, prefixes: int, objects: int) -> None:
    event: dict[str, Any] = json.loads(line)
    match event["message"]:
        case "pass":
            done, running, copied = event["done"], event["running"], event["objects_copied"]
            bar = "█" * (40 * copied // objects)
            console.print(f"{bar:<40} {done:>3}/{prefixes} prefixes, {running:>2} running, {copied:,}/{objects:,} objects")
        case (
            "settings"
            | "heartbeat"
            | "lease_taken"
            | "job_started"
            | "prefix_done"
            | "ended"
            | "worker_began"
            | "lister_began"
            | "draining"
            | "drained"
        ):
            pass
        case "worker_ended":
            console.print(f"the worker copied {event.get('objects_done', 0):,} objects")
        case other:
            console.print(f"{event['severity']} {other}", {k: v for k, v in event.items() if k in ("prefix", "cause", "code")})


def compare(objects: dict[str, bytes]) -> list[str]:
    """Names that are missing, surplus or different at the sink; read with the official client, not with the daemon's."""
    bucket = sink()
    blobs = {blob.name: blob for blob in bucket.list_blobs()}
    wrong = sorted(set(blobs) ^ set(objects))

    def same(name: str) -> bool:
        etag = hashlib.md5(objects[name], usedforsecurity=False).hexdigest()
        data: bytes = blobs[name].download_as_bytes(raw_download=True)
        return data == objects[name] and (blobs[name].metadata or {}).get("x-goog-source-etag") == etag

    names = sorted(set(blobs) & set(objects))
    with ThreadPoolExecutor(THREADS) as pool:
        wrong += [name for name, good in zip(names, pool.map(same, names), strict=True) if not good]
    console.print(f"{len(names):,} objects read back from gs://{SINK}, {len(wrong):,} differ")
    return wrong


def keep_store(folder: Path) -> Path:
    """The store outlives the demo, for the SQL below."""
    kept = Path(tempfile.gettempdir()) / "sts-manager-demo.db"
    for name in (kept, *kept.parent.glob(f"{kept.name}-*")):
        name.unlink(missing_ok=True)
    for name in folder.glob("sts_manager.db*"):
        if not name.name.endswith(".lock"):
            name.replace(kept.with_name(name.name.replace("sts_manager.db", kept.name)))
    return kept


def title(text: str) -> None:
    console.print(f"\n{text}", style="bold cyan")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("sqlite", "sts-s3", "sqlite")[len(sys.argv) - 1 :]]
    sys.exit(main(*given))

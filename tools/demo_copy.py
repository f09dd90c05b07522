"""`make demo ROUTE=copy`: one machine copies real objects through CloudFront, is killed on the way, meets faults, and goes on.

Everything is local: S3, a CDN that checks signatures, Cloud Storage. Then every object is compared from outside.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tools.demo import SINK, SOURCE, collect, compare, console, environment, stage, title, upload

FAULTS = [
    {"service": "cdn", "method": "GET", "error": "FORBIDDEN", "after": 20, "times": 3},
    {"service": "cdn", "method": "GET", "error": "TRUNCATED", "after": 60, "times": 20},
    {"service": "cdn", "method": "GET", "error": "CHANGED_ETAG", "after": 120, "times": 5},
    {"service": "gcs", "method": "xml.put", "error": "UNAVAILABLE", "after": 80, "times": 20},
    {"service": "gcs", "method": "xml.put", "error": "CORRUPT", "after": 200, "times": 5},
    {"service": "gcs", "method": "xml.put", "applied": True, "after": 300, "times": 5},
]


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sts-manager-demo-") as name, stage(Path(name)) as variables:
        folder = Path(name)
        os.environ.update(variables)
        title("1. Fill the S3 bucket")
        objects = collect()
        upload(objects)
        console.print(f"{len(objects):,} objects, {sum(map(len, objects.values())) / 2**20:,.1f} MiB in s3://{SOURCE}")
        words = ["copy", "--source", f"s3://{SOURCE}/", "--destination", f"gs://{SINK}/"]
        words += [
            "--cdn-url",
            f"http://{variables['CDN_EMULATOR_HOST']}/{SOURCE}/",
            "--cdn-key-pair-id",
            variables["CDN_KEY_PAIR_ID"],
        ]
        words += ["--cdn-private-key-file", variables["CDN_PRIVATE_KEY_FILE"]]
        title("2. What would be done")
        copy(folder, [*words[:5], "--dry-run"])
        title("3. Faults are ordered, the copy begins, and is killed in the middle (kill -9)")
        admin("faults", FAULTS)
        killed(folder, words, len(objects))
        title("4. The same command again")
        code = copy(folder, words)
        rules = admin("faults")["faults"]
        met = [f"{rule['fired']} x {rule['service']} {'LOST ANSWER' if rule['applied'] else rule['error']}" for rule in rules]
        console.print(f"faults met: {', '.join(met)}")
        title("5. One verdict a key")
        rows = [json.loads(line) for line in (folder / "verdicts.ndjson").read_text().splitlines()]
        console.print(*[json.dumps(row, ensure_ascii=False) for row in rows[:3]], sep="\n", markup=False)
        title("6. Check every object from outside")
        wrong = compare(objects)
    title("Summary")
    good = sum(row["verdict"] in ("done", "skipped") for row in rows)
    console.print(f"verdicts        {len(rows):,}, {good:,} of them good")
    console.print(f"identical       {len(objects) - len(wrong):,} of {len(objects):,} (name, bytes and source ETag compared)")
    console.print(f"time            {time.monotonic() - began:,.1f} s in all")
    return 1 if code or wrong or {row["key"] for row in rows} != set(objects) else 0


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "cdn_worker", *words]


def copy(folder: Path, words: list[str]) -> int:
    """The command, shown as typed."""
    console.print(f"$ cdn-worker {shlex.join(words)}", style="bold", markup=False)
    return subprocess.run(command(words), cwd=folder, env=environment(), check=False).returncode


def killed(folder: Path, words: list[str], objects: int) -> None:
    """Begin, and kill it once a third of the objects were asked for."""
    console.print(f"$ cdn-worker {shlex.join(words)}", style="bold", markup=False)
    with subprocess.Popen(command(words), cwd=folder, env=environment(), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and admin("calls").get("gcs", {}).get("xml.put", 0) < objects / 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    told = folder / "verdicts.ndjson.partial"
    done = len(told.read_text().splitlines()) if told.exists() else 0
    console.print(f"killed; {done:,} verdicts were written before")


def admin(what: str, body: object = None) -> Any:
    """Ask the stage, or tell it."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{os.environ['EMULATOR_ADMIN']}/{what}", data=data, timeout=10) as answer:  # noqa: S310 - on loopback
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())

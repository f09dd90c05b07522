"""A corpus of hostile keys and metadata, end to end on both routes: byte for byte, or refused by name before a byte moves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.end_to_end.test_pool import Pool
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client
from tools.emulators.stage import Stage

KEYS = [
    *(f"a{chr(code)}b" for code in range(0x20, 0x7F)),
    "..",
    ".",
    "../..",
    "../../etc/passwd",
    "a/../b",
    "a/./b",
    "a//b",
    "/",
    "//",
    "a/",
    "a",
    "...",
    ".hidden",
    "%2e%2e/%2f",
    "%00",
    "%0d%0aX-Injected: 1",
    "%25%32%35",
    "a%",
    "a%zz",
    "a+b c%20d",
    "?versionId=null",
    "a?b=c&d=e#f",
    "&amp;<Key>x</Key>",
    "]]>",
    '"><script>',
    "'; DROP TABLE sts_job; --",
    "$(touch pwned)",
    "`id`",
    "{0}{prefix}%s%n",
    "\\..\\x",
    "C:\\con",
    "\tx\t",
    "\x7f",
    "\u200b",
    "\u202egnp.exe",
    "\ufeffbom",
    "é",
    "e\u0301",
    "ß",
    "SS",
    "İ",
    "日本語",
    "🦀",
    "\U0010ffff",
    "x" * 900,
    "é" * 450,
    "__proto__",
    "null",
    "-rf",
    "--help",
    "gs://other/x",
    "s3://other/x",
    "http://169.254.169.254/latest",
    ".sts-manager/x",
    "generation#1",
    "a*b[c]?",
    "{a,b}",
    "~",
]
REFUSED = ["new\nline", "carriage\rreturn", "\r\nX-Injected: 1\r\n"]
METADATA = {
    "x-goog-acl": "public-read",
    "x-goog-if-generation-match": "0",
    "content-length": "9",
    "quoted": 'a"b; c=d',
    "percent": "%0d%0aX-Injected: 1",
    "html": "<b>&amp;</b>",
    "sql": "'; DROP TABLE x; --",
    "long": "v" * 1500,
    "spaces": "a   b",
}


def corpus(prefix: str) -> dict[str, bytes]:
    return {f"{prefix}{name}": hashlib.sha256(name.encode()).digest() for name in KEYS}


@pytest.mark.parametrize("route", ["cdn", "sts-s3"])
def test_keys_and_metadata_arrive_as_they_were(stage: Stage, tmp_path: Path, route: str) -> None:
    wanted = corpus("ok/")
    fill(stage, wanted)
    with s3_client(stage) as s3:
        s3.put_object(Bucket=SOURCE, Key="ok/metadata", Body=b"body", Metadata=METADATA, ContentType='text/x; a="b\\"c"')
    pool = Pool(stage, tmp_path, [{"prefix": "ok/", "route": route}])
    ended = pool.run()
    assert ended.code == 0, ended.err + pool.shell.run("failures").out
    there = at_sink(stage)
    assert there.pop("ok/metadata") == b"body"
    assert there == wanted
    assert not (tmp_path / "pwned").exists()
    if route == "cdn":
        with gcs_client(stage) as client:
            kept = dict(client.bucket(SINK).get_blob("ok/metadata").metadata)
        assert {name: value for name, value in kept.items() if not name.startswith("x-goog-source")} == METADATA


def test_what_the_sink_cannot_name_is_refused_by_name(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {f"bad/{name}": b"x" for name in REFUSED} | {"bad/good": b"good"})
    pool = Pool(stage, tmp_path, [{"prefix": "bad/", "route": "cdn"}])
    ended = pool.run("--max-attempts", "1")
    assert ended.code == 1
    assert at_sink(stage) == {"bad/good": b"good"}
    told = json.loads(pool.shell.run("failures", "--json").out)
    failed = {one["key"]: one["verdict"] for one in told}
    assert failed == {f"bad/{name}": "unmappable" for name in REFUSED}

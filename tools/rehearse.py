"""Fills the stage for a rehearsal by hand (deploy/compose): some hundred objects, the buckets, and a file of their prefixes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

SOURCE, SINK, CONTROL = "rehearsal-source", "rehearsal-sink", "control"
PREFIXES, OBJECTS = 10, 50


def main(folder: Path) -> None:
    s3: Any = boto3.client("s3")
    s3.create_bucket(Bucket=SOURCE)
    for index in range(PREFIXES * OBJECTS):
        s3.put_object(Bucket=SOURCE, Key=f"p{index % PREFIXES}/{index:04}", Body=os.urandom(1000 + index))
    client = storage.Client(project=os.environ["GOOGLE_CLOUD_PROJECT"], credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    for name in (SINK, CONTROL):
        client.create_bucket(name)
    (folder / "prefixes.json").write_text(json.dumps([f"p{index}/" for index in range(PREFIXES)]))
    print(f"{PREFIXES * OBJECTS} objects under {PREFIXES} prefixes in s3://{SOURCE}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/shared"))

"""The way of the older tools: threads, a fresh curl handle an object, the storage library's upload; a file for large ones."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pycurl
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

IN_MEMORY = 8 << 20


def main(work: dict[str, Any]) -> int:
    import requests  # noqa: PLC0415

    session = requests.Session()
    os.environ["REQUESTS_CA_BUNDLE"] = work["ca_file"]
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=work["threads"])
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    client = storage.Client(
        project="bench",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        _http=session,
        client_options={"api_endpoint": work["sink"]},
    )
    bucket = client.bucket("sink")

    def fetch(name: str, into: Any) -> None:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, f"{work['origin']}/source/{name}")
        curl.setopt(pycurl.CAINFO, work["ca_file"])
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.WRITEDATA, into)
        curl.perform()
        assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
        curl.close()

    def copy(index: int) -> None:
        name = f"{index // 1000:03}/object-{index:07}"
        blob = bucket.blob(name)
        if work["size"] <= IN_MEMORY:
            body = io.BytesIO()
            fetch(name, body)
            blob.upload_from_string(body.getvalue(), content_type="application/octet-stream")
        else:
            with tempfile.NamedTemporaryFile() as file:
                fetch(name, file)
                file.flush()
                blob.upload_from_filename(file.name)

    with ThreadPoolExecutor(work["threads"]) as pool:
        return sum(1 for _ in pool.map(copy, range(work["objects"])))


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))

"""Cloud Storage over HTTP, as little as the probe needs: header lines are kept as they come, which no client library does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from cdn_worker.domain.keys import encoded

SERVICE = "https://storage.googleapis.com"
DEADLINE_S = 60.0
JSON = {"Content-Type": "application/json; charset=UTF-8"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. lines: (name, value) of each header line, in order, repeated ones too."""

    status: int
    lines: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for own, value in self.lines if own.lower() == name.lower()]

    def value(self, name: str) -> str:
        """The first of that name; empty when there is none."""
        return next(iter(self.values(name)), "")

    def json(self) -> dict[str, Any]:
        """The body as an object; empty for anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def refusal(self) -> str:
        """The service's own words, or the status."""
        error = self.json().get("error")
        message = error.get("message", "") if isinstance(error, dict) else self.body[:300].decode("utf-8", "replace")
        return f"{self.status} {message}".strip()

    def describe(self) -> dict[str, Any]:
        """For a bug report: header lines without those that name a session or a request."""
        secret = ("location", "x-guploader-uploadid", "set-cookie", "alt-svc", "date", "expires")
        lines = [f"{name}: {value}" for name, value in self.lines if name.lower() not in secret]
        return {"status": self.status, "lines": lines, "body": self.body[:2000].decode("utf-8", "replace")}


@dataclass(frozen=True, slots=True)
class CloudStorage:
    """The XML and the JSON API. Raises requests.RequestException where no answer comes."""

    session: requests.Session
    base: str = SERVICE

    def bucket(self, name: str) -> Answer:
        return self._ask("GET", f"{self._bucket(name)}?projection=noAcl")

    def filter_permissions(self, bucket: str, permissions: Sequence[str]) -> list[str]:
        """Of permissions, those that the caller has on a bucket (needs none itself)."""
        query = "&".join(f"permissions={permission}" for permission in permissions)
        return list(self._ask("GET", f"{self._bucket(bucket)}/iam/testPermissions?{query}").json().get("permissions", ()))

    def put(self, bucket: str, name: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """By the XML API."""
        return self._ask("PUT", f"{self.base}/{bucket}/{encoded(name)}", body, headers)

    def begin(self, bucket: str, name: str, resource: Mapping[str, Any], size: int) -> Answer:
        """Begin a resumable session; its address is in `Location`."""
        url = f"{self.base}/upload/storage/v1/b/{quote(bucket, safe='')}/o?uploadType=resumable&name={quote(name, safe='')}"
        headers = {**JSON, "X-Upload-Content-Length": str(size)}
        return self._ask("POST", f"{url}&ifGenerationMatch=0", json.dumps(resource).encode(), headers)

    def send(self, session: str, body: bytes) -> Answer:
        """All bytes of a session. Raises ValueError for an address that is not the service's own."""
        if not session.startswith(f"{self.base}/"):
            raise ValueError("a session without an address at this service")
        last = len(body) - 1
        return self._ask("PUT", session, body, {"Content-Range": f"bytes 0-{last}/{len(body)}"})

    def get(self, bucket: str, name: str) -> Answer:
        return self._ask("GET", self._object(bucket, name))

    def read(self, bucket: str, name: str) -> Answer:
        """The bytes of an object."""
        return self._ask("GET", f"{self._object(bucket, name)}?alt=media")

    def patch(self, bucket: str, name: str, resource: Mapping[str, Any], generation: int) -> Answer:
        url = f"{self._object(bucket, name)}?ifGenerationMatch={generation}"
        return self._ask("PATCH", url, json.dumps(resource).encode(), JSON)

    def move(self, bucket: str, name: str, to: str, generation: int) -> Answer:
        url = f"{self._object(bucket, name)}/moveTo/o/{quote(to, safe='')}"
        return self._ask("POST", f"{url}?ifSourceGenerationMatch={generation}&ifGenerationMatch=0", b"", JSON)

    def delete(self, bucket: str, name: str, generation: int) -> Answer:
        """With its generation: for good, also where versions are kept."""
        return self._ask("DELETE", f"{self._object(bucket, name)}?generation={generation}")

    def page(self, bucket: str, **query: str) -> Answer:
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
        return self._ask("GET", f"{self._bucket(bucket)}/o?{words}")

    def list_pages(self, bucket: str, prefix: str, **query: str) -> Iterator[dict[str, Any]]:
        """All pages of a listing. Raises Refusal."""
        token = ""
        while True:
            answer = self.page(bucket, prefix=prefix, pageToken=token, **query)
            if answer.status != 200:
                raise Refusal(f"gs://{bucket} cannot be listed: {answer.refusal()}")
            page = answer.json()
            yield page
            token = page.get("nextPageToken", "")
            if not token:
                return

    def folders(self, bucket: str, prefix: str) -> Answer:
        """Of a bucket with a hierarchical namespace."""
        return self._ask("GET", f"{self._bucket(bucket)}/folders?prefix={quote(prefix, safe='')}")

    def delete_folder(self, bucket: str, name: str) -> Answer:
        return self._ask("DELETE", f"{self._bucket(bucket)}/folders/{quote(name, safe='')}")

    def _bucket(self, name: str) -> str:
        return f"{self.base}/storage/v1/b/{quote(name, safe='')}"

    def _object(self, bucket: str, name: str) -> str:
        return f"{self._bucket(bucket)}/o/{quote(name, safe='')}"

    def _ask(self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        answer = self.session.request(method, url, data=body, headers=sent, timeout=DEADLINE_S, allow_redirects=False)
        # Of urllib3's headers `iteritems` alone gives each line: the rest of it, and requests, join repeated ones.
        return Answer(answer.status_code, tuple(answer.raw.headers.iteritems()), answer.content)


class Refusal(Exception):
    """A service would not do what a probe asked of it."""

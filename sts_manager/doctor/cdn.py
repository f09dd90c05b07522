"""CloudFront: whether one object comes through it as it is in S3, whole and in part, and what its policies do to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

import requests

from cdn_worker.credentials.signing_keys import signer_from_file, signer_from_secret
from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.signing import Digest, sign_prefix
from cdn_worker.domain.url_list import host_fault
from sts_manager.doctor.aws import Sample, skew
from sts_manager.doctor.finding import Finding, Patient, failed, passed, skipped, warned
from sts_manager.domain.model import Route

VENDORS: tuple[type[Exception], ...] = (requests.RequestException, CdnWorkerError)
AGENT = "GoogleStorageTransferService"
META = "x-amz-meta-"
POLICIES = "cache policy CachingDisabled, origin request policy AllViewerExceptHostHeader"


class CdnSide:
    """`sample`: an object that S3 gave out."""

    def __init__(self, patient: Patient, sample: Sample | None) -> None:
        self._patient, self._sample = patient, sample
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def reading(self) -> Iterator[Finding]:
        """One signed GET, one Range GET, the headers of both."""
        name, settings = "read through the CDN", self._patient.settings
        if not settings.cdn_url:
            yield skipped(name, "--cdn-url is not given")
            return
        if self._sample is None:
            yield skipped(name, "no object of the source could be read to compare with")
            return
        sample = self._sample
        substitutions = tuple(
            (old, new) for old, _, new in (pair.partition("=") for pair in settings.cdn_substitute.split(";") if pair)
        )
        base = settings.cdn_url.replace("{bucket}", self._patient.source.bucket)
        url = base + KeyMapping(substitutions=substitutions).path(sample.key)
        query = self._signed(url)
        whole = self._ask(url, query, {"Accept-Encoding": "identity"})
        if whole.status_code != 200:
            yield failed(name, *self._refused(whole, url))
            return
        length, etag = whole.headers.get("Content-Length"), whole.headers.get("ETag", "").strip('"')
        if etag != sample.etag or (length is not None and int(length) != sample.size):
            told = f"{sample.key!r} has ETag {etag or 'none'}, {length or '?'} bytes; in S3 {sample.etag}, {sample.size} bytes"
            yield failed(
                name, told, "the distribution's origin must be this bucket, its origin path empty; no compression, no stale cache"
            )
            return
        yield passed(name, f"{sample.key!r} has the same ETag and length as in S3")
        if "Date" in whole.headers:
            yield skew("the CDN", whole.headers["Date"], self._patient.now_s())
        yield from self._range(url, query, sample)
        yield from self._compression(url, query, sample)
        yield from self._headers(whole, sample)
        yield from self._for_lists(base, url, whole)

    def _signed(self, url: str) -> str:
        settings = self._patient.settings
        digest = Digest(settings.cdn_digest)
        if settings.cdn_private_key_file:
            sign = signer_from_file(Path(settings.cdn_private_key_file), digest)
        elif settings.cdn_private_key_secret:
            sign = signer_from_secret(settings.cdn_private_key_secret, digest)
        else:
            return ""
        now = datetime.fromtimestamp(time.time(), UTC)
        made = sign_prefix(
            url,
            key_pair_id=settings.cdn_key_pair_id,
            sign=sign,
            now=now,
            digest=digest,
            life=timedelta(minutes=10),
            wildcard=False,
        )
        return made.query

    def _ask(self, url: str, query: str, headers: dict[str, str]) -> requests.Response:
        """The head of an answer; its body is not read."""
        full = f"{url}?{query}" if query else url
        answer = self._session.get(full, headers=headers, timeout=30, stream=True, allow_redirects=False)
        answer.close()
        return answer

    def _refused(self, answer: requests.Response, url: str) -> tuple[str, str]:
        status, signed = answer.status_code, bool(self._patient.settings.cdn_key_pair_id)
        if 300 <= status < 400:
            return (
                f"{url} redirects ({status}), and redirects are never followed",
                "let the distribution serve it itself: viewer protocol policy, origin",
            )
        if status == 403:
            if signed:
                pair = self._patient.settings.cdn_key_pair_id
                fix = f"is {pair} in a trusted key group, is this its private key, may the distribution read the bucket?"
            else:
                fix = "give --cdn-key-pair-id and --cdn-private-key-file, or open the behaviour (no trusted key groups)"
            return f"{url}: 403", fix
        if status == 404:
            return (
                f"{url}: 404, and S3 has it",
                "the distribution's origin must be this bucket and its origin path empty; --cdn-substitute",
            )
        return f"{url}: {status}", "see the distribution's standard logs"

    def _range(self, url: str, query: str, sample: Sample) -> Iterator[Finding]:
        name = "ranges through the CDN"
        if not sample.size:
            yield skipped(name, "the object at hand is empty")
            return
        part = self._ask(url, query, {"Range": "bytes=0-0", "Accept-Encoding": "identity"})
        if part.status_code == 206 and part.headers.get("Content-Range") == f"bytes 0-0/{sample.size}":
            yield passed(name, "206 with Content-Range")
        else:
            told = f"a request for one byte was answered {part.status_code}"
            yield failed(
                name, f"{told}: large objects cannot be read in parts", "no function or proxy before the bucket may drop Range"
            )

    def _compression(self, url: str, query: str, sample: Sample) -> Iterator[Finding]:
        name = "compression by the CDN"
        packed = self._ask(url, query, {"Accept-Encoding": "gzip, br"})
        if packed.headers.get("Content-Encoding", "") == sample.headers.get("content-encoding", ""):
            yield passed(name, "off")
        elif Route.STS_URL_LIST.value in self._patient.routes:
            told = "on: bytes and ETag differ from S3's, and the service may ask for it"
            yield failed(name, told, f"switch off “Compress objects automatically”: {POLICIES}")
        else:
            yield warned(name, "on; the workers do not ask for it", f"switch off “Compress objects automatically”: {POLICIES}")

    def _headers(self, whole: requests.Response, sample: Sample) -> Iterator[Finding]:
        name = "headers kept by the CDN"
        theirs = {header.lower(): value for header, value in whole.headers.items()}
        wanted = {one for one in sample.headers if one.startswith(META)} | {"content-type"}
        lost = sorted(one for one in wanted if one in sample.headers and theirs.get(one) != sample.headers[one])
        if lost:
            told = f"{', '.join(lost)} of {sample.key!r} would be lost or changed"
            yield failed(name, told, "remove it from the behaviour's response headers policy; let the origin's headers through")
        elif len(wanted) == 1:
            yield passed(name, "content-type; the object at hand has no user metadata to look at")
        else:
            yield passed(name, f"content-type and {len(wanted) - 1} of user metadata")

    def _for_lists(self, base: str, url: str, whole: requests.Response) -> Iterator[Finding]:
        """What the service needs besides, when it fetches by URL lists."""
        if Route.STS_URL_LIST.value not in self._patient.routes:
            return
        name = "fit for URL lists"
        fault = None if self._patient.loopback else host_fault(base)
        if fault is not None:
            yield failed(name, fault, "--cdn-url https://…, a distribution on the public internet")
            return
        if whole.headers.get("Content-Length") is None:
            yield failed(name, "there is no Content-Length", "switch compression off; no function may rewrite bodies")
            return
        parts = urlsplit(base)
        robots = self._session.get(f"{parts.scheme}://{parts.netloc}/robots.txt", timeout=30, allow_redirects=False)
        rules = RobotFileParser()
        rules.parse(robots.text.splitlines() if robots.status_code == 200 else [])
        if rules.can_fetch(AGENT, urlsplit(url).path):
            yield passed(name, "Content-Length, ranges, robots.txt")
        else:
            told = f"robots.txt of {parts.netloc} disallows {urlsplit(url).path}, and the service obeys it"
            yield failed(name, told, f"allow it: User-agent: {AGENT} / Allow: /")

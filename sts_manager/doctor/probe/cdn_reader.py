"""Reading one object through the CDN, signed in each way that its key can sign. Signatures stay here: they are in no answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cdn_worker.credentials.signing_keys import signer_from_file, signer_from_secret
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.signing import Digest, Signer, sign_prefix
from sts_manager.doctor.probe.context import Context

LIFE = timedelta(hours=1)
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class CdnAnswer:
    """The head of an answer. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    code: str = ""

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "").removeprefix("W/").strip('"')


def cdn_base(context: Context) -> str:
    """What stands before a key's path."""
    return context.patient.settings.cdn_url.replace("{bucket}", context.patient.source.bucket)


def cdn_url(context: Context, key: str) -> str:
    """The address of a key as the workers write it, without a signature."""
    pairs = (pair.partition("=") for pair in context.patient.settings.cdn_substitute.split(";") if pair)
    mapping = KeyMapping(substitutions=tuple((old, new) for old, _, new in pairs))
    return cdn_base(context) + mapping.path(key)


def signed(context: Context) -> bool:
    settings = context.patient.settings
    return bool(settings.cdn_private_key_file or settings.cdn_private_key_secret)


def query(context: Context, digest: Digest) -> str:
    """A signature for everything under the base, as the workers make it; empty where URLs are not signed. Raises BadInput."""
    settings = context.patient.settings
    sign: Signer
    if settings.cdn_private_key_file:
        sign = signer_from_file(Path(settings.cdn_private_key_file), digest)
    elif settings.cdn_private_key_secret:
        sign = signer_from_secret(settings.cdn_private_key_secret, digest)
    else:
        return ""
    now = datetime.fromtimestamp(context.patient.now_s(), UTC)
    made = sign_prefix(
        cdn_base(context), key_pair_id=settings.cdn_key_pair_id, sign=sign, now=now, digest=digest, life=LIFE, wildcard=True
    )
    return made.query


def check_signing(context: Context) -> None:
    """Sign once, where URLs are to be signed: a key that cannot be read is told before anything is made. Raises BadInput."""
    if context.patient.settings.cdn_url:
        query(context, Digest(context.patient.settings.cdn_digest))


def read(
    context: Context, key: str, digest: Digest, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> CdnAnswer:
    """Ask for one object; its body is not read. Raises requests.RequestException, BadInput."""
    url, signature = cdn_url(context, key), query(context, digest)
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    full = f"{url}?{signature}" if signature else url
    answer = context.clients.web.request(method, full, headers=sent, timeout=DEADLINE_S, stream=True, allow_redirects=False)
    try:
        code = answer.content[:500].decode("utf-8", "replace") if answer.status_code >= 400 and method != "HEAD" else ""
    finally:
        answer.close()
    return CdnAnswer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, _code(code))


def _code(body: str) -> str:
    return body.partition("<Code>")[2].partition("</Code>")[0]

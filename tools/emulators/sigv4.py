"""AWS Signature Version 4: what a request's signature must be, and the check the S3 layer makes of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Keys:
    """An access key id and its secret."""

    key_id: str
    secret: str


@dataclass(frozen=True)
class Scope:
    """What an Authorization header says of itself."""

    key_id: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str


def scope_of(authorization: str) -> Scope | None:
    """The parts of an Authorization header; None when it is not SigV4."""
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        return None
    parts = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    try:
        key_id, date, region, service, _ = parts["Credential"].split("/")
        return Scope(key_id, date, region, service, tuple(parts["SignedHeaders"].split(";")), parts["Signature"])
    except (KeyError, ValueError):
        return None


def signature(method: str, path: str, query: str, headers: Mapping[str, str], scope: Scope, secret: str) -> str:
    """The signature of a request; `path` is percent-encoded as sent (S3 signs it without normalising)."""
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True))
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(f"{key}={value}" for key, value in pairs),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in scope.signed),
            "",
            ";".join(scope.signed),
            headers.get("x-amz-content-sha256", ""),
        ]
    )
    where = f"{scope.date}/{scope.region}/{scope.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([ALGORITHM, headers.get("x-amz-date", ""), where, digest])
    key = f"AWS4{secret}".encode()
    for part in (scope.date, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()

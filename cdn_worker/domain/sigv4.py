"""AWS Signature Version 4 for reads from S3, with the signing key of a day kept (AWS, SigV4 signing of S3 requests)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
ATTRIBUTES = "x-amz-optional-object-attributes"


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """An access key: id, secret, and the session token of temporary ones. It never shows its secret."""

    key_id: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        return f"AwsKeys({self.key_id})"


class SigV4:
    """Signs requests without a body."""

    def __init__(self, keys: AwsKeys, region: str, service: str = "s3") -> None:
        self.keys, self.region = keys, region
        self._service = service
        self._day, self._key = "", b""

    def headers(self, method: str, host: str, path: str, query: str, stamp: str, attributes: str = "") -> list[str]:
        """The header lines that sign a request.

        path        percent-encoded, as it is sent; query: `canonical_query`
        stamp       the time, as `20261121T062032Z`
        attributes  of objects, beyond those that a listing tells anyhow: a header of its own, signed as all of Amazon's must be
        """
        day = stamp[:8]
        if day != self._day:
            self._day, self._key = day, self._signing_key(day)
        token = self.keys.token
        names = "host;x-amz-content-sha256;x-amz-date"
        signed = f"host:{host}\nx-amz-content-sha256:{UNSIGNED}\nx-amz-date:{stamp}\n"
        if attributes:
            names += f";{ATTRIBUTES}"
            signed += f"{ATTRIBUTES}:{attributes}\n"
        if token:
            names += ";x-amz-security-token"
            signed += f"x-amz-security-token:{token}\n"
        canonical = f"{method}\n{path}\n{query}\n{signed}\n{names}\n{UNSIGNED}"
        scope = f"{day}/{self.region}/{self._service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        proof = f"Credential={self.keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        lines = [f"x-amz-content-sha256: {UNSIGNED}", f"x-amz-date: {stamp}", f"Authorization: AWS4-HMAC-SHA256 {proof}"]
        if attributes:
            lines.append(f"{ATTRIBUTES}: {attributes}")
        if token:
            lines.append(f"x-amz-security-token: {token}")
        return lines

    def _signing_key(self, day: str) -> bytes:
        key = f"AWS4{self.keys.secret}".encode()
        for part in (day, self.region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def canonical_query(values: Mapping[str, str]) -> str:
    """A query as SigV4 wants it: encoded strictly, sorted by name."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(values[name], safe='-_.~')}" for name in sorted(values))

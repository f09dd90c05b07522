"""CloudFront's signed URLs: one custom policy with a wildcard signs every object under a prefix (CloudFront, private content).

Only the shape is here. Who holds the private key is a `Signer`, so that no key ever enters this module.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

Signer = Callable[[bytes], bytes]
"""A signature over a message, by whoever holds the private key."""

LIFE = timedelta(days=7)
RENEW_AFTER = 0.8
"""The share of a signature's life after which it is made anew: whoever still uses the old one is in time."""


class Digest(StrEnum):
    """The hash under the signature. SHA-1 is what CloudFront takes when nothing is said."""

    SHA1 = "SHA1"
    SHA256 = "SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who may fetch what until when. `resource`: a URL, `*` for any run of characters, `?` for any one."""

    resource: str
    expires: datetime

    def text(self) -> str:
        """Compact JSON in CloudFront's order: the very bytes that are signed."""
        condition = {"DateLessThan": {"AWS:EpochTime": int(self.expires.timestamp())}}
        statement = {"Resource": self.resource, "Condition": condition}
        return json.dumps({"Statement": [statement]}, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPrefix:
    """A signature that opens every object under a URL. `query` is secret: it belongs in no log and no message."""

    resource: str
    query: str
    made: datetime
    expires: datetime

    def __repr__(self) -> str:
        return f"SignedPrefix({self.resource}, until {self.expires:%Y-%m-%d %H:%M:%SZ})"

    def due(self, now: datetime) -> bool:
        """Whether it should be made anew; also when the clock says that it was made in the future."""
        return not self.made <= now < self.made + RENEW_AFTER * (self.expires - self.made)

    def url(self, path_url: str) -> str:
        """A URL under the resource, signed. Raises ValueError for one that the policy does not cover."""
        begin = self.resource.removesuffix("*")
        if path_url != self.resource and (begin == self.resource or not path_url.startswith(begin)):
            raise ValueError(f"the signature is for {self.resource}, not for {path_url}")
        return f"{path_url}?{self.query}"


def sign_prefix(
    base_url: str,
    *,
    key_pair_id: str,
    sign: Signer,
    now: datetime,
    digest: Digest = Digest.SHA1,
    life: timedelta = LIFE,
    wildcard: bool = True,
) -> SignedPrefix:
    """Sign everything that begins with `base_url` (already percent-encoded), or without `wildcard` just that URL.

    Raises ValueError for a URL that no policy can name.
    """
    if "*" in base_url or "?" in base_url:
        raise ValueError(f"{base_url!r}: '*' and '?' mean something else in a policy: encode them as %2A and %3F")
    if life <= timedelta(0):
        raise ValueError("a signature needs a life")
    policy = Policy(resource=f"{base_url}*" if wildcard else base_url, expires=now + life)
    message = policy.text().encode()
    parts = [("Policy", safe(message)), ("Signature", safe(sign(message))), ("Key-Pair-Id", key_pair_id)]
    if digest is not Digest.SHA1:
        parts.append(("Hash-Algorithm", digest.value))
    query = "&".join(f"{name}={value}" for name, value in parts)
    return SignedPrefix(resource=policy.resource, query=query, made=now, expires=policy.expires)


def safe(data: bytes) -> str:
    """CloudFront's own base64: `+`, `=` and `/` become `-`, `_` and `~`."""
    return base64.b64encode(data).decode().translate(str.maketrans("+=/", "-_~"))


def unsafe(text: str) -> bytes:
    """The inverse of `safe`. Raises ValueError for what is no base64."""
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)

"""From the flags that `copy` and `run` share to a `Reach`: what can be wrong with them is found here, and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cdn_worker.config import Reach
from cdn_worker.credentials.provider import aws_credentials, google_token
from cdn_worker.credentials.renewal import Provider
from cdn_worker.credentials.signing_keys import signer_from_file, signer_from_secret
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.signing import Digest, Signer
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.http.engine import Limits

GCS = "https://storage.googleapis.com"
LIFE_LEAST = timedelta(minutes=5)
FIRST_S = 30.0
"""The first credentials are waited for so long; a worker then goes on without, and claims nothing until it has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachFlags:
    """How the clouds are reached: the flags that `copy` and `run` share, as they were given."""

    cdn_url: str = ""
    cdn_key_pair_id: str = ""
    cdn_private_key_file: Path | None = None
    cdn_private_key_secret: str = ""
    cdn_digest: Digest = Digest.SHA1
    cdn_signature_life: int = 7 * 24 * 3600
    substitute: Sequence[str] = ()
    processes: int = 0
    connections: int = 512
    buffer_mib: int = 256
    http2: bool = False
    s3_endpoint: str = ""
    s3_region: str = ""
    aws_profile: str = ""
    no_sign_request: bool = False
    gcs_endpoint: str = ""


def reach_of(flags: ReachFlags, environment: Mapping[str, str]) -> Reach:
    """How the clouds are reached, still without keys. Raises BadInput that names the flag, and what would be right."""
    _check_cdn(flags)
    region = flags.s3_region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    s3_endpoint = flags.s3_endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    return Reach(
        s3_endpoint=s3_endpoint or f"https://s3.{region}.{_suffix(region)}",
        s3_region=region,
        sink_endpoint=flags.gcs_endpoint or environment.get("STORAGE_EMULATOR_HOST") or GCS,
        cdn_url=flags.cdn_url,
        key_pair_id=flags.cdn_key_pair_id,
        digest=flags.cdn_digest,
        life=timedelta(seconds=flags.cdn_signature_life),
        substitutions=substitutions(flags.substitute),
        limits=Limits(requests=flags.connections, http2=flags.http2),
        buffer_bytes=flags.buffer_mib << 20,
        slots=(min(16, flags.connections), flags.connections),
    )


def _suffix(region: str) -> str:
    """Of the hosts of a region: those in China have a domain of their own (AWS, S3 endpoints and quotas)."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def keyed(reach: Reach, flags: ReachFlags) -> Reach:
    """The same with who holds the keys: they are being fetched from now on. Raises BadInput when they are not to be had."""
    google: Provider[str] | None = None
    aws: Provider[AwsKeys] | None = None
    if takes_token(reach.sink_endpoint):
        google = Provider("Google credentials", google_token()).start()
    if not flags.no_sign_request:
        aws = Provider("AWS credentials", aws_credentials(flags.aws_profile or None)).start()
    held = [one for one in (aws, google) if one is not None]
    for one in held:
        one.wait(FIRST_S)

    def refused() -> None:
        for one in held:
            one.renew()

    def fetching() -> bool:
        return any(one.fetching for one in held)

    def lacking() -> str:
        return next(filter(None, (one.lacking for one in held)), "")

    return replace(reach, aws=aws, google=google, signer=_signer(flags), refused=refused, fetching=fetching, lacking=lacking)


def takes_token(endpoint: str) -> bool:
    """Whether Google's token is sent there: over TLS, and to Google alone. Raises BadInput for Google's host without TLS."""
    parts = urlsplit(endpoint)
    at_google = (parts.hostname or "").endswith(".googleapis.com")
    if at_google and parts.scheme != "https":
        raise BadInput(f"--gcs-endpoint {endpoint}: a token is sent over TLS alone: write https://{parts.netloc}")
    return at_google


def substitutions(pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`OLD=NEW` pairs. Raises BadInput."""
    found = []
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old:
            raise BadInput(f"--substitute {pair!r}: it is written OLD=NEW; OLD is replaced by NEW in the path of the CDN's URL")
        found.append((old, new))
    return tuple(found)


def _signer(flags: ReachFlags) -> Signer | None:
    if flags.cdn_private_key_file is not None:
        return signer_from_file(flags.cdn_private_key_file, flags.cdn_digest)
    if flags.cdn_private_key_secret:
        return signer_from_secret(flags.cdn_private_key_secret, flags.cdn_digest)
    return None


def check_cdn_url(url: str) -> None:
    """Raises BadInput for what is no beginning of a URL."""
    parts = urlsplit(url)
    whole = parts.scheme in ("http", "https") and parts.netloc and url.endswith("/")
    if not whole or parts.query or parts.fragment or set(url) & set("*?"):
        raise BadInput(f"--cdn-url {url!r}: it is written https://DOMAIN/ or https://DOMAIN/path/, with a '/' at its end")


def _check_cdn(flags: ReachFlags) -> None:
    keys = [flags.cdn_private_key_file is not None, bool(flags.cdn_private_key_secret)]
    if not flags.cdn_url:
        if flags.cdn_key_pair_id or any(keys) or flags.substitute:
            raise BadInput("--cdn-key-pair-id, --cdn-private-key-… and --substitute are for a CDN: --cdn-url names it")
        return
    check_cdn_url(flags.cdn_url)
    if all(keys):
        raise BadInput("--cdn-private-key-file and --cdn-private-key-secret: give one of them")
    if any(keys) != bool(flags.cdn_key_pair_id):
        missing = "--cdn-key-pair-id" if any(keys) else "--cdn-private-key-file or --cdn-private-key-secret"
        raise BadInput(f"signed URLs need a key pair's id and its private key; {missing} is missing (neither: the CDN is public)")
    if timedelta(seconds=flags.cdn_signature_life) < LIFE_LEAST:
        raise BadInput(f"--cdn-signature-life {flags.cdn_signature_life}: at least {LIFE_LEAST.seconds} seconds")

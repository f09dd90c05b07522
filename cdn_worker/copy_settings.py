"""From the flags of `copy` to a `Job` and a `Keyring`: everything that can be wrong is found here, and named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cdn_worker.copy_run import Job
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.keys import KeyMapping, encoded
from cdn_worker.domain.pages import Filter
from cdn_worker.domain.signing import Digest, Signer
from cdn_worker.engine.loop import Limits
from cdn_worker.keypairs import signer_from_file
from cdn_worker.keyring import Keyring, aws_credentials, google_token, signer_from_secret
from cdn_worker.wiring import Setup

GCS = "https://storage.googleapis.com"
LIFE_LEAST = timedelta(minutes=5)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CLASS = re.compile(r"[A-Z][A-Z_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags as they were given."""

    source: str
    destination: str
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
    listing_lanes: int = 8
    storage_class: str = ""
    kms_key: str = ""
    overwrite: bool = False
    source_storage_class: Sequence[str] = ()
    modified_since: str = ""
    modified_before: str = ""
    multipart_etags: bool = True
    http2: bool = False
    verdicts: Path = Path("verdicts.ndjson")
    dry_run: bool = False
    s3_endpoint: str = ""
    s3_region: str = ""
    aws_profile: str = ""
    no_sign_request: bool = False
    gcs_endpoint: str = ""


def place(flag: str, text: str, scheme: str) -> tuple[str, str]:
    """The bucket and the prefix of `s3://bucket/prefix`. Raises BadInput."""
    begin = f"{scheme}://"
    if not text.startswith(begin):
        raise BadInput(f"{flag} {text!r}: it is written {begin}BUCKET/PREFIX")
    bucket, _, prefix = text.removeprefix(begin).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadInput(f"{flag} {text!r}: {bucket!r} is no bucket's name")
    return bucket, prefix


def moment(flag: str, text: str) -> datetime | None:
    """A time in ISO 8601; UTC when it has no zone. Raises BadInput."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{flag} {text!r}: a time is written 2026-11-21 or 2026-11-21T03:00:00Z") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def substitutions(pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`OLD=NEW` pairs. Raises BadInput."""
    found = []
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old:
            raise BadInput(f"--substitute {pair!r}: it is written OLD=NEW; OLD is replaced by NEW in the path of the CDN's URL")
        found.append((old, new))
    return tuple(found)


def job_of(flags: Flags, environment: Mapping[str, str]) -> Job:
    """What is to be done. Raises BadInput that names the flag, what is wrong with it, and what would be right."""
    source_bucket, source_prefix = place("--source", flags.source, "s3")
    sink_bucket, sink_prefix = place("--destination", flags.destination, "gs")
    region = flags.s3_region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    s3_endpoint = flags.s3_endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    _check_cdn(flags)
    _check_filters(flags)
    mapping = KeyMapping(source_root=source_prefix, sink_root=sink_prefix, substitutions=substitutions(flags.substitute))
    setup = Setup(
        s3_endpoint=s3_endpoint or f"https://s3.{region}.amazonaws.com",
        s3_region=region,
        source_bucket=source_bucket,
        sink_endpoint=flags.gcs_endpoint or environment.get("STORAGE_EMULATOR_HOST") or GCS,
        sink_bucket=sink_bucket,
        mapping=mapping,
        cdn_url=flags.cdn_url,
        key_pair_id=flags.cdn_key_pair_id,
        storage_class=flags.storage_class,
        kms_key=flags.kms_key,
        limits=Limits(requests=flags.connections, http2=flags.http2),
        buffer_bytes=flags.buffer_mib << 20,
        slots=(min(16, flags.connections), flags.connections),
        multipart_etags=flags.multipart_etags,
    )
    since, before = moment("--modified-since", flags.modified_since), moment("--modified-before", flags.modified_before)
    if since is not None and before is not None and since >= before:
        raise BadInput(
            f"--modified-since {flags.modified_since} is not before --modified-before {flags.modified_before}: no object fits"
        )
    return Job(
        setup=setup,
        prefix=source_prefix,
        verdicts=flags.verdicts,
        filter=Filter(storage_classes=tuple(flags.source_storage_class), since=since, before=before),
        overwrite=flags.overwrite,
        processes=flags.processes or os.cpu_count() or 1,
        lanes=flags.listing_lanes,
        dry_run=flags.dry_run,
    )


def keyring_of(flags: Flags, job: Job) -> Keyring:
    """Who holds the keys for it. Raises BadInput."""
    setup = job.setup
    aws = None if flags.no_sign_request else aws_credentials(flags.aws_profile or None)
    at_google = urlsplit(setup.sink_endpoint).hostname
    google: Callable[[], tuple[str, datetime | None]] | None = None
    if at_google is not None and at_google.endswith("googleapis.com"):
        google = google_token()
    # Substitutions may change any part of a path, so then the signature is for all of the distribution.
    under = "" if setup.mapping.substitutions else encoded(job.prefix)
    return Keyring(
        aws=aws,
        google=google,
        signer=_signer(flags),
        base_url=f"{setup.cdn_url}{under}",
        key_pair_id=flags.cdn_key_pair_id,
        digest=flags.cdn_digest,
        life=timedelta(seconds=flags.cdn_signature_life),
    )


def _signer(flags: Flags) -> Signer | None:
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


def _check_cdn(flags: Flags) -> None:
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


def _check_filters(flags: Flags) -> None:
    for name, values in (("--source-storage-class", flags.source_storage_class), ("--storage-class", [flags.storage_class])):
        for value in values:
            if value and not _CLASS.fullmatch(value):
                raise BadInput(f"{name} {value!r}: classes are written in capitals, as STANDARD or NEARLINE")
    if flags.kms_key and not re.fullmatch(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+", flags.kms_key):
        raise BadInput(f"--kms-key {flags.kms_key!r}: it is written projects/P/locations/L/keyRings/R/cryptoKeys/K")

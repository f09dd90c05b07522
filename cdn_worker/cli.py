"""The data plane's commands. Exit codes: 0 done, 1 something is not at the sink, 2 bad usage or settings."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cdn_worker import logs
from cdn_worker.copy_command.flags import Flags, job_of
from cdn_worker.copy_command.progress import Screen, closing, sized, spent
from cdn_worker.copy_command.run import CopyRun, Result
from cdn_worker.credentials.signing_keys import signer_from_file
from cdn_worker.domain.errors import BadInput, CdnWorkerError
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.signing import Digest, sign_prefix
from cdn_worker.flags import ReachFlags, check_cdn_url, keyed, reach_of
from cdn_worker.logs import visible
from cdn_worker.protocol.messages import BUCKET
from cdn_worker.queues.factory import open_queues, prepare_queues
from cdn_worker.url_lists.runner import Proof
from cdn_worker.url_lists.runner import Sizes as ListSizes
from cdn_worker.worker.health import LOOPBACK
from cdn_worker.worker.list_task import Sizes
from cdn_worker.worker.service import list_for, serve
from cdn_worker.worker.worker import Pool

EXIT_NOT_ALL = 1
EXIT_USAGE = 2
app = typer.Typer(
    name="cdn-worker",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Copies objects from S3 to Cloud Storage, straight or through CloudFront, and proves each of them.",
)


# The flags that `copy` and `run` share.
CdnKeyPairId = Annotated[str, typer.Option(help="The id of the CDN's public key; without it URLs are not signed.")]
CdnPrivateKeyFile = Annotated[Path | None, typer.Option(help="Its private key, a PEM file.")]
CdnPrivateKeySecret = Annotated[str, typer.Option(help="Or in Secret Manager: projects/P/secrets/S[/versions/V].")]
CdnDigest = Annotated[Digest, typer.Option(help="The hash under the signature.")]
CdnSignatureLife = Annotated[int, typer.Option(help="Seconds; renewed in time by itself.")]
Substitute = Annotated[list[str] | None, typer.Option(help="OLD=NEW in the path of the CDN's URL; may be repeated.")]
Processes = Annotated[int, typer.Option(min=0, help="Copying loops, a process each; 0: one for each core.")]
Connections = Annotated[int, typer.Option(min=1, help="Most requests at once, for each process and side.")]
BufferMib = Annotated[int, typer.Option(min=16, help="MiB that one process may hold in buffers.")]
Http2 = Annotated[bool, typer.Option("--http2", help="Offer HTTP/2 over TLS.")]
S3Endpoint = Annotated[str, typer.Option(help="Else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or the region's.")]
S3Region = Annotated[str, typer.Option(help="Of the source bucket; else AWS_REGION, or us-east-1.")]
AwsProfile = Annotated[str, typer.Option(help="A profile of ~/.aws; else AWS's usual chain.")]
NoSignRequest = Annotated[bool, typer.Option("--no-sign-request", help="The source bucket is public.")]
GcsEndpoint = Annotated[str, typer.Option(help="Else STORAGE_EMULATOR_HOST, or Cloud Storage.")]


@app.callback()
def _root() -> None:
    pass


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors that are ours become one line and an exit code."""
    try:
        yield
    except BadInput as error:
        print("error:", visible(str(error), keep="\n"), file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from error
    except CdnWorkerError as error:
        print("error:", visible(str(error), keep="\n"), file=sys.stderr)
        raise typer.Exit(EXIT_NOT_ALL) from error


@app.command("sign-url")
def sign_url(
    key: Annotated[str, typer.Argument(help="The object's key, as S3 has it (not percent-encoded).")],
    cdn_url: Annotated[str, typer.Option(help="What stands before the key: https://d111111abcdef8.cloudfront.net/")],
    cdn_key_pair_id: Annotated[str, typer.Option(help="The id of the public key in CloudFront (K…).")],
    cdn_private_key_file: Annotated[Path, typer.Option(help="Its private key, a PEM file.")],
    digest: Annotated[Digest, typer.Option(help="SHA1, as CloudFront takes it by default, or SHA256.")] = Digest.SHA1,
    life: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
) -> None:
    """Print a signed URL of one object, for a check with curl. Whoever has it can read the object until it expires."""
    with _told():
        check_cdn_url(cdn_url)
        url = cdn_url + encoded(key)
        signed = sign_prefix(
            url,
            key_pair_id=cdn_key_pair_id,
            sign=signer_from_file(cdn_private_key_file, digest),
            now=datetime.now(UTC),
            digest=digest,
            life=timedelta(seconds=life),
            wildcard=False,
        )
        print(signed.url(url))


@app.command("copy")
def copy(
    source: Annotated[str, typer.Option(help="s3://BUCKET/PREFIX: every object whose key begins with PREFIX.")],
    destination: Annotated[str, typer.Option(help="gs://BUCKET/PREFIX: this prefix takes the place of the source's.")],
    cdn_url: Annotated[
        str, typer.Option(help="Read through a CDN: what stands before a key. Else from S3, by signed requests.")
    ] = "",
    cdn_key_pair_id: CdnKeyPairId = "",
    cdn_private_key_file: CdnPrivateKeyFile = None,
    cdn_private_key_secret: CdnPrivateKeySecret = "",
    cdn_digest: CdnDigest = Digest.SHA1,
    cdn_signature_life: CdnSignatureLife = 7 * 24 * 3600,
    substitute: Substitute = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List and compare; say what would be copied; change nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace objects at the destination that differ.")] = False,
    verdicts: Annotated[Path, typer.Option(help="What became of each key: .ndjson, or .parquet.")] = Path("verdicts.ndjson"),
    processes: Processes = 0,
    connections: Connections = 512,
    buffer_mib: BufferMib = 256,
    listing_lanes: Annotated[int, typer.Option(min=1, help="Ranges of keys that are listed at once.")] = 8,
    storage_class: Annotated[str, typer.Option(help="Of the new objects; else the bucket's default.")] = "",
    kms_key: Annotated[str, typer.Option(help="Cloud KMS key of the new objects: projects/…/cryptoKeys/K.")] = "",
    source_storage_class: Annotated[list[str] | None, typer.Option(help="Only objects of this class; may be repeated.")] = None,
    modified_since: Annotated[str, typer.Option(help="Only objects last modified at or after this time (ISO 8601, UTC).")] = "",
    modified_before: Annotated[str, typer.Option(help="Only objects last modified before this time.")] = "",
    multipart_etags: Annotated[
        bool, typer.Option(help="Recompute the ETags of objects uploaded in parts; costs an MD5 of their bytes.")
    ] = True,
    http2: Http2 = False,
    s3_endpoint: S3Endpoint = "",
    s3_region: S3Region = "",
    aws_profile: AwsProfile = "",
    no_sign_request: NoSignRequest = False,
    gcs_endpoint: GcsEndpoint = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only errors and the summary.")] = False,
) -> None:
    """Copy every object under a prefix, and prove each: exit code 0 only if all of them are at the destination.

    What is there already and equal is skipped, so the same command goes on after a kill. Nothing there that differs is changed
    without --overwrite.
    """
    values = {name: value for name, value in locals().items() if name in Flags.__dataclass_fields__}
    values |= {name: tuple(values[name] or ()) for name in ("substitute", "source_storage_class")}
    with _told():
        flags = Flags(**values)
        reach = reach_of(flags, os.environ)
        job = job_of(flags, reach)
        keyring = keyed(reach, flags).keyring(job.setup.source_bucket, job.prefix)
        result = CopyRun(job, keyring, Screen(quiet=quiet)).run()
        code = _ended(result, flags)
    raise typer.Exit(code)


@app.command("run")
def run(
    queue: Annotated[
        str, typer.Option(help="Where tasks come from: sqlite:///FILE, or pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT.")
    ],
    cdn_url: Annotated[
        str, typer.Option(help="Read through a CDN: what stands before a key; {bucket} in it is the source's bucket.")
    ] = "",
    cdn_key_pair_id: CdnKeyPairId = "",
    cdn_private_key_file: CdnPrivateKeyFile = None,
    cdn_private_key_secret: CdnPrivateKeySecret = "",
    cdn_digest: CdnDigest = Digest.SHA1,
    cdn_signature_life: CdnSignatureLife = 7 * 24 * 3600,
    substitute: Substitute = None,
    processes: Processes = 0,
    connections: Connections = 512,
    buffer_mib: BufferMib = 256,
    http2: Http2 = False,
    keys_per_task: Annotated[int, typer.Option(min=1, max=1000, help="Objects in one copy task, at most.")] = 50,
    mib_per_task: Annotated[int, typer.Option(min=1, help="MiB in one copy task, unless a single object is larger.")] = 64,
    pages_per_task: Annotated[int, typer.Option(min=1, help="Pages of 1,000 keys that one list task reads.")] = 20,
    lease: Annotated[
        float,
        typer.Option(min=1, help="Seconds until a dead worker's tasks go to another one; with Pub/Sub its subscriptions say."),
    ] = 60,
    allow_source: Annotated[list[str] | None, typer.Option(help="A bucket that tasks may name; any when not given.")] = None,
    allow_destination: Annotated[list[str] | None, typer.Option(help="The same of destinations.")] = None,
    health_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /healthz, /readyz, /metrics; 0: none.")] = 0,
    health_address: Annotated[
        str,
        typer.Option(help="Address that the health port listens at; 0.0.0.0 where probers come from outside. They need no key."),
    ] = LOOPBACK,
    state: Annotated[
        Path | None, typer.Option(help="A file of this worker's own: large objects go on where they were after a restart.")
    ] = None,
    object_ledger: Annotated[bool, typer.Option("--object-ledger", help="Report every object, not only failures.")] = False,
    parent: Annotated[int, typer.Option(hidden=True)] = 0,
    s3_endpoint: S3Endpoint = "",
    s3_region: S3Region = "",
    aws_profile: AwsProfile = "",
    no_sign_request: NoSignRequest = False,
    gcs_endpoint: GcsEndpoint = "",
) -> None:
    """Work for `sts-manager run`: take tasks from the queue, list and copy, report; until told to stop (SIGTERM).

    Any number may run, here and on other machines; any may die at any time. It drains within 15 seconds.
    """
    values = {name: value for name, value in locals().items() if name in ReachFlags.__dataclass_fields__}
    values["substitute"] = tuple(substitute or ())
    complaint = logs.configure("cdn_worker")
    if complaint:
        print(f"warning: {complaint}", file=sys.stderr)
    with _told():
        sources = _read_buckets("--allow-source", allow_source)
        sinks = _read_buckets("--allow-destination", allow_destination)
        missing = [flag for flag, given in (("--allow-source", sources), ("--allow-destination", sinks)) if not given]
        if missing:
            told = f"any bucket may be named by whoever may publish to the queue: give {' and '.join(missing)}"
            print(f"warning: {told} for each bucket of the migration", file=sys.stderr)
        flags = ReachFlags(**values)
        reach = keyed(reach_of(flags, os.environ), flags)
        pool = Pool(
            reach=reach,
            processes=processes or os.cpu_count() or 1,
            sizes=Sizes(keys=keys_per_task, bytes=mib_per_task << 20, pages=pages_per_task),
            ledger=object_ledger,
            sources=sources,
            sinks=sinks,
            state=state,
        )
        with contextlib.closing(open_queues(queue, lease_s=lease)) as queues:
            for told in queues.warnings:
                print(f"warning: {told}", file=sys.stderr)
            serve(pool, queues, health_port=health_port, health_address=health_address, parent=parent)


def _read_buckets(flag: str, names: list[str] | None) -> frozenset[str]:
    """Raises BadInput for what is no bare name: no task would ever match it, and each would be refused."""
    for name in names or ():
        if not BUCKET.fullmatch(name):
            raise BadInput(f"{flag} {name!r}: give a bucket's bare name, without s3:// or gs://, and without a path")
    return frozenset(names or ())


@app.command("lists", hidden=True)
def lists(
    ledger: Annotated[Path, typer.Option(help="The ledger of URL lists that the daemon keeps.")],
    cdn_url: Annotated[str, typer.Option(help="What stands before a key; {bucket} in it is the source's bucket.")] = "",
    cdn_key_pair_id: CdnKeyPairId = "",
    cdn_private_key_file: CdnPrivateKeyFile = None,
    cdn_private_key_secret: CdnPrivateKeySecret = "",
    cdn_digest: CdnDigest = Digest.SHA1,
    cdn_signature_life: CdnSignatureLife = 7 * 24 * 3600,
    substitute: Substitute = None,
    list_rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Objects in one list.")] = 100_000,
    proof: Annotated[Proof, typer.Option(help="Of objects whose ETag is no MD5: bytes, or size.")] = Proof.BYTES,
    connections: Connections = 128,
    parent: Annotated[int, typer.Option(hidden=True)] = 0,
    s3_endpoint: S3Endpoint = "",
    s3_region: S3Region = "",
    aws_profile: AwsProfile = "",
    no_sign_request: NoSignRequest = False,
    gcs_endpoint: GcsEndpoint = "",
) -> None:
    """Started by `sts-manager run` for route sts-url-list: writes the lists, and gives objects their own names afterwards."""
    values = {name: value for name, value in locals().items() if name in ReachFlags.__dataclass_fields__}
    values["substitute"] = tuple(substitute or ())
    logs.configure("cdn_worker")
    with _told():
        flags = ReachFlags(**values)
        reach = keyed(reach_of(flags, os.environ), flags)
        # At a stage on this machine the service reads from this machine, too.
        loopback = "STORAGE_TRANSFER_EMULATOR_HOST" in os.environ
        sizes = ListSizes(rows=list_rows, loopback=loopback, read_back=proof is Proof.BYTES)
        list_for(ledger, reach, sizes, parent=parent)


@app.command("prepare-queue")
def prepare_queue(
    queue: Annotated[str, typer.Option(help="pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT, or sqlite:///FILE.")],
    lease: Annotated[float, typer.Option(help="Seconds until a dead worker's tasks go to another one: 10 to 600.")] = 60,
) -> None:
    """Make the topics and subscriptions of a queue where they are missing. Safe to repeat."""
    with _told():
        for line in prepare_queues(queue, lease_s=lease) or ["all of it is there"]:
            print(line)


def _ended(result: Result, flags: Flags) -> int:
    """Print how it went; the exit code."""
    if not result.listed and not result.stopped:
        raise BadInput(f"--source {flags.source}: there is no object that fits; is the prefix right, and the filters?")
    print(f"{result.listed:,} objects listed, {sized(result.bytes_listed)}, in {spent(result.seconds)}")
    if flags.dry_run:
        print(f"  would copy {result.to_copy:>12,}  {sized(result.bytes_to_copy):>12}; nothing was changed")
    print(closing(result.summary, result.tally))
    if result.verdicts is not None:
        print(f"verdicts: {result.verdicts}")
    if result.stopped:
        print(f"error: not complete: {visible(str(result.stopped))}", file=sys.stderr)
    return 0 if result.good else EXIT_NOT_ALL


def main() -> None:
    """The entry point of `cdn-worker`."""
    app()


if __name__ == "__main__":
    main()

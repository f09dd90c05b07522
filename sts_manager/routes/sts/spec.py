"""From a prefix to the transfer job that moves it, and whether an existing job is that one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.location import Place, Scheme, places_of
from sts_manager.domain.model import PREFIXES_OF_A_JOB_MAX, Egress, StartJob
from sts_manager.domain.names import overlaps

_MARKED = re.compile(r"STS Manager \(only ([A-Z_, ]+)\): ")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How the service may read S3: exactly one of a role, a stored secret, or a key pair. Never printed."""

    role_arn: str = ""
    credentials_secret: str = ""
    key_id: str = ""
    secret_key: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.role_arn, self.credentials_secret, self.key_id))) != 1:
            raise ValueError("exactly one of a role ARN, a credentials secret or an access key opens an S3 source")

    def __repr__(self) -> str:
        return f"S3Access({'role_arn' if self.role_arn else 'credentials_secret' if self.credentials_secret else 'key pair'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """Everything about a transfer job that is the same for all prefixes of a migration.

    storage_classes   of S3: objects of others are not transferred; empty: those that the service transfers by itself
    """

    project: str
    source: Place
    sink: Place
    s3_access: S3Access | None = None
    s3_cloudfront_domain: str = ""
    s3_managed_private_network: bool = False
    overwrite: bool = False
    overwrite_when: str = ""
    storage_class: str = ""
    modified_since: datetime | None = None
    modified_before: datetime | None = None
    log_failures: bool = False
    storage_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source.scheme is Scheme.S3 and self.s3_access is None:
            raise ValueError("an S3 source needs credentials")
        if self.sink.scheme is not Scheme.GCS:
            raise ValueError("the Storage Transfer Service writes to Cloud Storage only")


def transfer_job(order: StartJob, settings: TransferSettings, manifest: str = "") -> sts.TransferJob:
    """The job for one prefix: no schedule (it is run explicitly, once), named so that a repeated create collides.

    manifest: where the names of the only objects that are to be moved are written down (gs://…csv); empty: all of the prefix.

    Raises ValueError when its own source is one that these settings cannot open.
    """
    more = f" and {len(order.others):,} more" if order.others else ""
    job = sts.TransferJob(
        name=order.job_name,
        project_id=order.project or settings.project,
        status=sts.TransferJob.Status.ENABLED,
        transfer_spec=transfer_spec(order, settings, manifest),
    )
    classes = classes_of(job, settings)
    only = f" (only {', '.join(classes)})" if classes else ""
    job.description = _shortened(f"STS Manager{only}: {order.prefix}{more} (attempt {order.attempt})")
    if settings.log_failures:
        logged = sts.LoggingConfig
        job.logging_config = sts.LoggingConfig(
            log_actions=[logged.LoggableAction.FIND, logged.LoggableAction.COPY, logged.LoggableAction.DELETE],
            log_action_states=[logged.LoggableActionState.FAILED],
        )
    return job


def classes_of(job: sts.TransferJob, settings: TransferSettings) -> tuple[str, ...]:
    """The storage classes to which a job is limited: those of the settings where it reads S3."""
    return settings.storage_classes if "aws_s3_data_source" in job.transfer_spec else ()


def marked_classes(description: str) -> tuple[str, ...]:
    """The storage classes to which a job of ours is limited, by its description."""
    found = _MARKED.match(description)
    return () if found is None else tuple(found[1].split(", "))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTransfer:
    """One URL list, and where its objects land: a path of its own, under which each is called after its host."""

    name: str
    description: str
    location: str
    bucket: str
    path: str
    storage_class: str = ""


def list_job(listed: ListedTransfer, project: str) -> sts.TransferJob:
    """The job for one URL list."""
    options = sts.TransferOptions()
    if listed.storage_class:
        options.metadata_options = sts.MetadataOptions(storage_class=f"STORAGE_CLASS_{listed.storage_class}")
    return sts.TransferJob(
        name=listed.name,
        description=_shortened(listed.description),
        project_id=project,
        status=sts.TransferJob.Status.ENABLED,
        transfer_spec=sts.TransferSpec(
            http_data_source=sts.HttpData(list_url=listed.location),
            gcs_data_sink=sts.GcsData(bucket_name=listed.bucket, path=listed.path),
            transfer_options=options,
        ),
    )


def transfer_spec(order: StartJob, settings: TransferSettings, manifest: str = "") -> sts.TransferSpec:
    """What is moved from where to where. Prefixes, and names of a manifest, are relative to the source's path."""
    source, sink = places_of(order.source, order.destination, otherwise=(settings.source, settings.sink))
    settings = _leaving(replace(settings, source=source, sink=sink), order.egress)
    prefixes = sorted((order.prefix, *order.others))
    if len(prefixes) > PREFIXES_OF_A_JOB_MAX:
        raise ValueError(f"{len(prefixes):,} prefixes do not fit into one transfer job; {PREFIXES_OF_A_JOB_MAX:,} are the most")
    for one in overlaps([(prefix, at) for at, prefix in enumerate(prefixes)]):
        raise ValueError(f"{prefixes[one.inner]!r} lies under {prefixes[one.outer]!r}: the service takes no such pair in one job")
    conditions = sts.ObjectConditions(include_prefixes=[] if manifest else prefixes)
    if settings.modified_since is not None:
        conditions.last_modified_since = settings.modified_since
    if settings.modified_before is not None:
        conditions.last_modified_before = settings.modified_before
    options = sts.TransferOptions(
        overwrite_objects_already_existing_in_sink=settings.overwrite,
        overwrite_when=settings.overwrite_when or None,
    )
    if settings.storage_class == "PRESERVE" and settings.source.scheme is not Scheme.GCS:
        raise ValueError(f"--storage-class PRESERVE is for objects from Cloud Storage, and these come from {settings.source}")
    if settings.storage_class:
        options.metadata_options = sts.MetadataOptions(storage_class=f"STORAGE_CLASS_{settings.storage_class}")
    spec = sts.TransferSpec(
        gcs_data_sink=sts.GcsData(bucket_name=settings.sink.bucket, path=settings.sink.path),
        object_conditions=conditions,
        transfer_options=options,
    )
    if manifest:
        spec.transfer_manifest = sts.TransferManifest(location=manifest)
    if settings.source.scheme is Scheme.GCS:
        spec.gcs_data_source = sts.GcsData(bucket_name=settings.source.bucket, path=settings.source.path)
    else:
        spec.aws_s3_data_source = _s3_data(settings)
    return spec


def _leaving(settings: TransferSettings, egress: str) -> TransferSettings:
    """How a prefix's bytes leave AWS, where its row says so."""
    if not egress:
        return settings
    domain = egress if egress.startswith("https://") else ""
    network = egress == Egress.PRIVATE_NETWORK
    return replace(settings, s3_cloudfront_domain=domain, s3_managed_private_network=network)


def _s3_data(settings: TransferSettings) -> sts.AwsS3Data:
    access = settings.s3_access
    assert access is not None, "TransferSettings refuses an S3 source without access"
    data = sts.AwsS3Data(
        bucket_name=settings.source.bucket,
        path=settings.source.path,
        cloudfront_domain=settings.s3_cloudfront_domain,
    )
    if settings.s3_managed_private_network:
        data.managed_private_network = True  # a oneof: said to be false it would be there, too
    if access.role_arn:
        data.role_arn = access.role_arn
    elif access.credentials_secret:
        data.credentials_secret = access.credentials_secret
    else:
        data.aws_access_key = sts.AwsAccessKey(access_key_id=access.key_id, secret_access_key=access.secret_key)
    return data


def differences(wanted: sts.TransferSpec, found: sts.TransferSpec) -> Iterator[str]:
    """Name the fields in which an existing job would move other objects, or put them elsewhere.

    A job of several prefixes is that of some of them, too: the others' rows may have gone another way meanwhile. How S3 is opened
    is not compared: the service never gives keys out again, and a rotated role moves the same objects. The service may show what
    an option is that was left open: that is no difference (documented defaults of `TransferOptions` and `MetadataOptions`).
    """
    pairs = {
        "source": (_source(wanted), _source(found)),
        "sink": (_location(wanted.gcs_data_sink), _location(found.gcs_data_sink)),
        "object_conditions": (_conditions(wanted), _conditions(found, least=_prefixes(wanted))),
        "manifest": (wanted.transfer_manifest.location, found.transfer_manifest.location),
        "transfer_options": (_options(wanted), _options(found)),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            yield name


def _prefixes(spec: sts.TransferSpec) -> frozenset[str]:
    return frozenset(spec.object_conditions.include_prefixes)


def _conditions(spec: sts.TransferSpec, least: frozenset[str] = frozenset()) -> tuple[object, ...]:
    """Which objects a job moves. least: prefixes that are enough if it has them."""
    conditions, prefixes = spec.object_conditions, _prefixes(spec)
    return (
        least if least and least <= prefixes else prefixes,
        frozenset(conditions.exclude_prefixes),
        conditions.last_modified_since,
        conditions.last_modified_before,
        conditions.min_time_elapsed_since_last_modification or timedelta(0),
        conditions.max_time_elapsed_since_last_modification,
    )


def _options(spec: sts.TransferSpec) -> tuple[object, ...]:
    """What a job does with an object that is there already, of which class it makes new ones, and what it deletes."""
    options, when, classes = spec.transfer_options, sts.TransferOptions.OverwriteWhen, sts.MetadataOptions.StorageClass
    always = options.overwrite_objects_already_existing_in_sink
    return (
        when.ALWAYS if always else options.overwrite_when or when.DIFFERENT,
        options.metadata_options.storage_class or classes.STORAGE_CLASS_DESTINATION_BUCKET_DEFAULT,
        options.delete_objects_unique_in_sink,
        options.delete_objects_from_source_after_transfer,
    )


def _source(spec: sts.TransferSpec) -> tuple[str, str, str]:
    if "aws_s3_data_source" in spec:
        return ("s3", *_location(spec.aws_s3_data_source))
    if "gcs_data_source" in spec:
        return ("gs", *_location(spec.gcs_data_source))
    if "http_data_source" in spec:
        return ("a URL list", spec.http_data_source.list_url, "")
    return ("another kind of source", "", "")


def _location(data: sts.GcsData | sts.AwsS3Data) -> tuple[str, str]:
    return data.bucket_name, data.path.removesuffix("/")


def _shortened(text: str) -> str:
    """At most 1,024 bytes of UTF-8 (`TransferJob.description`)."""
    return text.encode()[:1000].decode("utf-8", "ignore")

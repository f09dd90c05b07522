"""The daemon's settings: one frozen model. Flag, then environment, then file, then default; unknown keys are refused."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sts_manager.domain.errors import BadInput
from sts_manager.domain.location import Place, Scheme, place, without_password

ENVIRONMENT_STEM = "STS_MANAGER_"
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_TABLE = re.compile(r"[A-Za-z0-9_-]{1,200}")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
_SQS_ARN = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,80}")
_SECRET = re.compile(r"projects/\d+/secrets/[A-Za-z0-9_-]+")
_BIGQUERY = re.compile(r"bigquery://(?P<project>[^/]+)/(?P<dataset>[^/]+)/?")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
STORAGE_CLASSES = (
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
)
"""Of S3 (S3 API, StorageClass), but those of buckets that no route reads."""
Seconds = float


class Settings(BaseModel):
    """Everything an operator can choose. Each description is also the flag's help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(
        "sqlite:///sts_manager.db",
        description="Where the job table lives: a SQLAlchemy URL, bigquery, or bigquery://PROJECT/DATASET.",
    )
    job_table: str = Field("sts_job", description="Name of the job table.")
    job_history_table: str = Field("sts_job_history", description="Name of the history table.")
    dataset: str = Field("data_migration", description="BigQuery dataset, with --store bigquery.")
    dataset_location: str = Field("US", description="Location of the BigQuery dataset.")
    project: str = Field(
        "",
        description="Google Cloud project of the transfer jobs; inferred when not given. May be repeated: several share the "
        "work, each with quotas of its own.",
    )
    prefixes_per_job: int = Field(
        1,
        ge=1,
        le=1000,
        description="Prefixes in one transfer job, at most: the service creates 5,000 jobs a day and runs 200 at once.",
    )
    route: Literal["auto", "sts-s3", "sts-gcs", "sts-url-list", "cdn"] = Field(
        "auto",
        description="How prefixes travel unless their row says otherwise: auto (cdn when --cdn-url is given, else "
        "the Storage Transfer Service), sts-s3, sts-gcs, sts-url-list (the service reads through the CDN, from lists of URLs), "
        "cdn (the built-in worker pool).",
    )
    source_bucket: str = Field("migration-source", description="s3://bucket/path, gs://bucket/path, or a GCS bucket's name.")
    destination_bucket: str = Field("migration-destination", description="gs://bucket/path, or a GCS bucket's name.")
    job_interval: Seconds = Field(1200, gt=0, description="Seconds between starting new jobs of the transfer service.")
    metrics_interval: Seconds = Field(300, gt=0, description="Seconds between gatherings of state.")
    sleep_timeout: Seconds = Field(
        60, gt=0, description="Seconds of sleep between loop turns; both intervals must be at least it."
    )
    max_concurrent_jobs: int = Field(20, ge=1, description="Most jobs at once.")
    max_concurrent_cdn_jobs: int = Field(20, ge=1, description="Most prefixes at once in the worker pool.")
    max_attempts: int = Field(5, ge=1, description="Attempts for a prefix before it ends in error.")
    retry_delay: Seconds = Field(
        60, ge=0, description="Seconds before the first retry; doubled for each further one, with jitter."
    )
    no_retry_on_job_error: bool = Field(False, description="Do not retry failed jobs.")
    allow_new_jobs_when_stalled: bool = Field(False, description="Stalled jobs do not count as running.")
    publish_heartbeat: bool = Field(False, description="Heartbeat to Cloud Monitoring every loop turn.")
    stackdriver_project: str = Field("", description="Project for the heartbeat; inferred when not given.")
    health_file: str = Field("", description="File that the daemon touches each loop turn; `health` looks at it.")
    overwrite_dest_objects: bool = Field(False, description="Overwrite objects at the sink, equal ones too.")
    overwrite_when: Literal["", "DIFFERENT", "NEVER", "ALWAYS"] = Field(
        "", description="When to overwrite objects at the sink: DIFFERENT (as by default), NEVER, ALWAYS."
    )
    modified_since: AwareDatetime | None = Field(
        None, description="Only objects last modified at or after this time (ISO 8601 with zone)."
    )
    modified_before: AwareDatetime | None = Field(
        None, description="Only objects last modified before this time (ISO 8601 with zone)."
    )
    storage_class: Literal["", "STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "PRESERVE"] = Field(
        "",
        description="Storage class at the sink: STANDARD, NEARLINE, COLDLINE, ARCHIVE, or, from a gs:// source, PRESERVE; "
        "the bucket's own by default.",
    )
    include_storage_classes: str = Field(
        "",
        description="Only objects of these S3 storage classes travel, by whichever route (joined by commas, or repeated). "
        "The Storage Transfer Service takes GLACIER only if it is named here, and restored.",
    )
    s3_role_arn: str = Field("", description="AWS role that the Storage Transfer Service assumes to read S3.")
    s3_credentials_secret: str = Field("", description="Secret with AWS keys: projects/NUMBER/secrets/NAME.")
    s3_cloudfront_domain: str = Field(
        "",
        description="Read S3 through this CloudFront distribution (https://…). Google's page says that client libraries do not "
        "support it; the installed one has the field: try one prefix first.",
    )
    s3_managed_private_network: bool = Field(
        False,
        description="Read S3 over Google's managed private network. Google's page says that client libraries do not "
        "support it; the installed one has the field: try one prefix first.",
    )
    queue: str = Field(
        "",
        description="The worker pool's queue: sqlite:///FILE (by default one beside the store), or pubsub://PROJECT/NAME.",
    )
    queue_lease: Seconds = Field(
        60, ge=1, description="Seconds until the tasks of a dead worker go to another one; with Pub/Sub the subscription says."
    )
    pool_ledger: str = Field("", description="SQLite file of what the pool was given and reported; beside the store by default.")
    workers: int | None = Field(
        None, ge=0, description="Copying processes of the worker that the daemon starts: one a core by default, 0 for none."
    )
    object_ledger: bool = Field(
        False,
        description="Keep one row for every object that travels through the pool (table sts_job_object), not only failures.",
    )
    cdn_url: str = Field("", description="Read S3 through this CDN: what stands before a key (https://DOMAIN/).")
    cdn_key_pair_id: str = Field("", description="The id of the CDN's public key (K…); without it URLs are not signed.")
    cdn_private_key_file: str = Field("", description="Its private key, a PEM file.")
    cdn_private_key_secret: str = Field("", description="Or in Secret Manager: projects/P/secrets/S[/versions/V].")
    cdn_digest: Literal["SHA1", "SHA256"] = Field("SHA1", description="The hash under the CDN's signature.")
    cdn_signature_life: int = Field(
        7 * 24 * 3600, ge=300, description="Seconds that a signature lasts; renewed in time by itself."
    )
    cdn_substitute: str = Field("", description="OLD=NEW pairs, separated by ';', put in place in the path of the CDN's URL.")
    event_queue: str = Field(
        "", description="SQS queue that S3 tells its changes, for `follow`: arn:aws:sqs:REGION:ACCOUNT:NAME."
    )
    list_ledger: str = Field("", description="SQLite file of route sts-url-list's state; beside the store by default.")
    url_list_rows: int = Field(
        100_000, ge=1, le=1_000_000, description="Objects in one URL list (of at most 128 MB): one transfer job each."
    )
    url_list_metadata: Literal["all", "etag"] = Field(
        "all",
        description="What route sts-url-list restores of what a URL list loses: all (user metadata and content headers, by one "
        "HEAD an object at S3), or etag (only where the object came from).",
    )
    url_list_proof: Literal["bytes", "size"] = Field(
        "bytes",
        description="What route sts-url-list compares of objects whose ETag is no MD5 (uploaded in parts): bytes (they are read "
        "back from the destination), or size (only where the CDN keeps no older version: a cache that does goes unnoticed).",
    )
    sts_find_failures: bool = Field(
        True,
        description="After a transfer from S3 that left objects behind, compare the listings to name them, and retry just those. "
        "Needs AWS credentials on this machine.",
    )
    compare: bool = Field(
        True,
        description="After a transfer by route sts-s3 that succeeded, compare the listings for what the service passed over "
        "without a word (archived objects). Needs AWS credentials on this machine; it costs the listings.",
    )
    allow_empty: bool = Field(
        False,
        description="A prefix that matches no object is done like any other. By default it is done with the code EMPTY, shown by "
        "`status`, and `run --until-done` ends with 1. With filters by time or storage class it is always as with this flag.",
    )
    allow_left_behind: bool = Field(
        False,
        description="Let `run --until-done` end with 0 though objects of prefixes that are done are known not to be at the "
        "destination (archived ones, which the transfer service passes over). They are named all the same.",
    )
    sts_log_failures: bool = Field(False, description="Let the service log each failed object to Cloud Logging.")

    @property
    def filtered(self) -> bool:
        """Whether more than its prefix decides whether an object is transferred."""
        return bool(self.modified_since or self.modified_before or self.include_storage_classes)

    @property
    def bigquery(self) -> tuple[str, str] | None:
        """(project or "", dataset) of a BigQuery store; None for an SQL store."""
        if self.store == "bigquery":
            return "", self.dataset
        found = _BIGQUERY.fullmatch(self.store)
        return None if found is None else (found["project"], found["dataset"])

    @property
    def store_shown(self) -> str:
        """The store's address without its password, for screens and messages."""
        if self.store == "bigquery":
            return f"the BigQuery dataset {self.dataset}"
        return without_password(self.store)

    @property
    def projects(self) -> tuple[str, ...]:
        """The projects that share the work, as they were given; none when it is to be inferred."""
        return tuple(one.strip() for one in self.project.split(",") if one.strip())

    @property
    def storage_classes(self) -> tuple[str, ...]:
        """The S3 storage classes whose objects travel, sorted; none: every class that a route takes."""
        return tuple(sorted({one.strip() for one in self.include_storage_classes.split(",") if one.strip()}))

    @property
    def source(self) -> Place:
        return place(self.source_bucket)

    @property
    def sink(self) -> Place:
        return place(self.destination_bucket)


Layer = tuple[str, Mapping[str, Any]]
"""(where it came from, values): the first layer that has a key wins."""


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], config: Path | None, *, file_first: bool = False
) -> Settings:
    """Settings from all layers. Raises BadInput that names the key, where it came from, and what would be right.

    file_first: the file wins over flags and environment, as in the older tool.
    """
    layers = [
        ("flag", {key: value for key, value in flags.items() if value is not None}),
        ("environment", _from_environment(environment)),
    ]
    if config is not None:
        layers.insert(0 if file_first else len(layers), (str(config), _from_file(config)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        for key, value in values.items():
            if key not in merged:
                merged[key] = value
                origins[key] = _origin(origin, key)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise BadInput("\n".join(_told(fault, origins) for fault in error.errors())) from error
    _check(settings, origins)
    return settings


def disagreements(flags: Mapping[str, Any], config: Path) -> list[str]:
    """What flags and a file say differently of one setting, in words. Raises BadInput for a file that cannot be read."""
    out = []
    for key, in_file in _from_file(config).items():
        given = flags.get(key)
        if given is not None and _read_one(key, given) != _read_one(key, in_file):
            out.append(f"{flag_of(key)} {without_password(str(given))} (the file: {without_password(str(in_file))})")
    return out


def _read_one(key: str, value: Any) -> Any:
    """A value as the settings take it, so that 5 and "5" are the same; as it is when they do not take it."""
    try:
        return getattr(Settings.model_validate({key: value}), key)
    except ValidationError:
        return value


def shown(settings: Settings) -> dict[str, str]:
    """The settings that differ from their defaults, fit for a log; a store's password is masked."""
    out = {}
    for name, value in settings.model_dump().items():
        if value != Settings.model_fields[name].default:
            out[name] = without_password(str(value))
    return out


def seconds_of(text: str) -> float:
    """`90s`, `10m`, `6h`, `1d`. Raises BadInput."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if found is None or not float(found[1]):
        raise BadInput(f"{text!r} is no span of time: it is written 90s, 10m, 6h or 1d")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_STEM):
            key = name.removeprefix(ENVIRONMENT_STEM).lower()
            _known(key, name, lambda near: ENVIRONMENT_STEM + near.upper())
            found[key] = value
    return found


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--config-path {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--config-path {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"--config-path {path} must hold a JSON object of flags (no leading dashes) and their values")
    found = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        _known(key, f"{name!r} in {path}", lambda near: repr(near.replace("_", "-")))
        found[key] = value
    return found


def _known(key: str, named: str, spelt: Any) -> None:
    if key in Settings.model_fields:
        return
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    hint = f"; did you mean {spelt(near[0])}?" if near else ""
    raise BadInput(f"unknown setting {named}{hint}")


def _origin(origin: str, key: str) -> str:
    if origin == "flag":
        return flag_of(key)
    if origin == "environment":
        return f"{ENVIRONMENT_STEM}{key.upper()} (environment)"
    return f"{key.replace('_', '-')!r} in {origin}"


def _told(fault: Any, origins: Mapping[str, str]) -> str:
    key = str(fault["loc"][0]) if fault["loc"] else ""
    given = fault.get("input")
    return f"{origins.get(key, flag_of(key))}: {given!r} will not do: {fault['msg']}"


def _check(settings: Settings, origins: Mapping[str, str]) -> None:
    """What no single field can tell."""

    def named(key: str) -> str:
        return origins.get(key, f"{flag_of(key)} (default)")

    for key in ("job_table", "job_history_table"):
        value = getattr(settings, key)
        if not _TABLE.fullmatch(value):
            raise BadInput(f"{named(key)}: {value!r} is not a table's name: letters, digits, '_' and '-' only")
    if settings.job_table == settings.job_history_table:
        raise BadInput(f"{named('job_table')} and {named('job_history_table')} name the same table")
    for key in ("job_interval", "metrics_interval"):
        if getattr(settings, key) < settings.sleep_timeout:
            raise BadInput(
                f"{named(key)} is {getattr(settings, key):g} s, less than {named('sleep_timeout')} of "
                f"{settings.sleep_timeout:g} s: the loop cannot be quicker than its sleep; "
                "lower --sleep-timeout or raise the interval"
            )
    _check_projects(settings, named)
    _check_store(settings, origins, named)
    _check_places(settings, named)
    _check_s3(settings, named)
    _check_route(settings, named)
    _check_cdn(settings, named)


def _check_projects(settings: Settings, named: Any) -> None:
    for project in settings.projects:
        if not _PROJECT.fullmatch(project):
            raise BadInput(f"{named('project')}: {project!r} is not a project's id: 6 to 30 lower-case letters, digits and '-'")
    if twice := [one for one, number in Counter(settings.projects).items() if number > 1]:
        raise BadInput(f"{named('project')} names {twice[0]} twice")


def _check_store(settings: Settings, origins: Mapping[str, str], named: Any) -> None:
    found = settings.bigquery
    if found is None:
        if settings.store.startswith("bigquery"):
            raise BadInput(f"{named('store')}: {settings.store!r} is written bigquery, or bigquery://PROJECT/DATASET")
        return
    if settings.store != "bigquery" and "dataset" in origins and settings.dataset != found[1]:
        raise BadInput(f"{named('dataset')} is {settings.dataset}, but {named('store')} names the dataset {found[1]}")
    if not _DATASET.fullmatch(found[1]):
        key = "dataset" if settings.store == "bigquery" else "store"
        raise BadInput(f"{named(key)}: {found[1]!r} is not a dataset's name: letters, digits and '_' only")


def _check_places(settings: Settings, named: Any) -> None:
    places = {}
    for key in ("source_bucket", "destination_bucket"):
        try:
            places[key] = place(getattr(settings, key))
        except ValueError as error:
            raise BadInput(f"{named(key)}: {error}") from error
    source, sink = places["source_bucket"], places["destination_bucket"]
    if sink.scheme is not Scheme.GCS:
        raise BadInput(f"{named('destination_bucket')}: {sink} is not in Cloud Storage, the only sink there is")
    if source.overlaps(sink):
        raise BadInput(
            f"{named('source_bucket')} {source} and {named('destination_bucket')} {sink} are one place: nothing to move"
        )
    if settings.storage_class == "PRESERVE" and source.scheme is not Scheme.GCS:
        raise BadInput(
            f"{named('storage_class')} is PRESERVE, which the service takes for a gs:// source only, and "
            f"{named('source_bucket')} is {source}: S3's classes are others; give STANDARD, NEARLINE, COLDLINE or ARCHIVE"
        )
    since, before = settings.modified_since, settings.modified_before
    if since is not None and before is not None and since >= before:
        raise BadInput(f"{named('modified_since')} {_iso(since)} is not before {named('modified_before')} {_iso(before)}")
    if settings.overwrite_dest_objects and settings.overwrite_when:
        raise BadInput(
            f"{named('overwrite_dest_objects')} and {named('overwrite_when')} exclude each other; the first means ALWAYS"
        )


def _check_s3(settings: Settings, named: Any) -> None:
    if settings.event_queue and not _SQS_ARN.fullmatch(settings.event_queue):
        raise BadInput(f"{named('event_queue')}: {settings.event_queue!r} is not like arn:aws:sqs:REGION:123456789012:NAME")
    # `follow` is told the queue alone: which source it belongs to is looked at by whoever makes the job.
    chosen = settings.source_bucket != Settings.model_fields["source_bucket"].default
    if settings.event_queue and chosen and settings.source.scheme is not Scheme.S3:
        raise BadInput(f"{named('event_queue')} is for an S3 source, but {named('source_bucket')} is {settings.source}")
    _check_classes(settings, named)
    of_s3 = [key for key in Settings.model_fields if key.startswith("s3_")]
    given = [key for key in (*of_s3, "include_storage_classes") if getattr(settings, key)]
    if settings.source.scheme is not Scheme.S3:
        if given:
            raise BadInput(f"{named(given[0])} is for an S3 source, but {named('source_bucket')} is {settings.source}")
        return
    if settings.s3_role_arn and settings.s3_credentials_secret:
        raise BadInput(f"{named('s3_role_arn')} and {named('s3_credentials_secret')} exclude each other")
    if settings.s3_role_arn and not _ROLE_ARN.fullmatch(settings.s3_role_arn):
        raise BadInput(f"{named('s3_role_arn')}: {settings.s3_role_arn!r} is not like arn:aws:iam::123456789012:role/NAME")
    if settings.s3_credentials_secret and not _SECRET.fullmatch(settings.s3_credentials_secret):
        raise BadInput(f"{named('s3_credentials_secret')}: it is written projects/PROJECT_NUMBER/secrets/NAME")
    domain = settings.s3_cloudfront_domain
    if domain and not domain.startswith("https://"):
        raise BadInput(f"{named('s3_cloudfront_domain')}: {domain!r} must begin with https://")
    if domain and settings.s3_managed_private_network:
        raise BadInput(f"{named('s3_cloudfront_domain')} and {named('s3_managed_private_network')} exclude each other")


def _check_classes(settings: Settings, named: Any) -> None:
    for one in settings.storage_classes:
        if one not in STORAGE_CLASSES:
            near = difflib.get_close_matches(one.upper(), STORAGE_CLASSES, n=1)
            hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(STORAGE_CLASSES)}"
            raise BadInput(f"{named('include_storage_classes')}: {one!r} is no storage class of S3{hint}")


def _check_route(settings: Settings, named: Any) -> None:
    s3 = settings.source.scheme is Scheme.S3
    if settings.route in ("cdn", "sts-s3", "sts-url-list") and not s3:
        raise BadInput(f"{named('route')} is {settings.route}, which reads S3, but {named('source_bucket')} is {settings.source}")
    if settings.route == "sts-gcs" and s3:
        raise BadInput(f"{named('route')} is sts-gcs, but {named('source_bucket')} is {settings.source}")
    if settings.queue and not settings.queue.startswith(("sqlite:///", "pubsub://")):
        raise BadInput(f"{named('queue')}: {settings.queue!r} is written sqlite:///FILE or pubsub://PROJECT/NAME")
    if settings.route == "sts-url-list" and not settings.cdn_url:
        raise BadInput(f"{named('route')} is sts-url-list: the lists hold URLs of a CDN, and --cdn-url is missing")


def _check_cdn(settings: Settings, named: Any) -> None:
    s3 = settings.source.scheme is Scheme.S3
    keys = [key for key in ("cdn_private_key_file", "cdn_private_key_secret") if getattr(settings, key)]
    if not settings.cdn_url:
        given = [*keys, *(key for key in ("cdn_key_pair_id", "cdn_substitute") if getattr(settings, key))]
        if given:
            raise BadInput(f"{named(given[0])} is for a CDN: --cdn-url names it")
        return
    if not re.fullmatch(r"https?://[^/?#*]+/([^?#*]*/)?", settings.cdn_url):
        raise BadInput(f"{named('cdn_url')}: {settings.cdn_url!r} is written https://DOMAIN/ or https://DOMAIN/path/")
    if not s3:
        raise BadInput(f"{named('cdn_url')} is for an S3 source, but {named('source_bucket')} is {settings.source}")
    if len(keys) > 1:
        raise BadInput(f"{named(keys[0])} and {named(keys[1])} exclude each other")
    if bool(keys) != bool(settings.cdn_key_pair_id):
        missing = "--cdn-key-pair-id" if keys else "--cdn-private-key-file or --cdn-private-key-secret"
        raise BadInput(f"signed URLs need a key pair's id and its private key: {missing} is missing")
    for pair in filter(None, settings.cdn_substitute.split(";")):
        if not pair.partition("=")[0] or "=" not in pair:
            raise BadInput(f"{named('cdn_substitute')}: {pair!r} is written OLD=NEW; pairs are separated by ';'")


def _iso(at: datetime) -> str:
    return at.isoformat()

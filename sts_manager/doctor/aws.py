"""AWS's side: whether these credentials list and read the source, where the bucket is, and how far apart the clocks are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from cdn_worker.domain.archive import FOR_GOOD, TIERING, unreadable
from cdn_worker.domain.listing_page import RESTORED, RESTORING, STANDARD, Listed
from sts_manager.doctor.finding import Finding, Patient, failed, passed, skipped, warned
from sts_manager.doctor.regions import region_fault
from sts_manager.domain.model import Route

VENDORS: tuple[type[Exception], ...] = (BotoCoreError, ClientError)
SKEW_WARN_S, SKEW_FAIL_S = 60.0, 300.0
"""S3 refuses a signature that is 15 minutes off; CloudFront's policies and Google's tokens have no such room."""
TRIED_MAX = 8
"""Objects that are read, one after the other, until one can be: of an archive tier no listing tells."""
OPTIONAL = ("RestoreStatus",)
"""What a listing is asked for besides."""
OWN_ROUTES = frozenset({Route.CDN.value, Route.STS_URL_LIST.value})
GET_POLICY = "give its policy s3:GetObject on arn:aws:s3:::{bucket}/*"
LIST_POLICY = "give its policy s3:ListBucket and s3:GetBucketLocation on arn:aws:s3:::{bucket}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An object of the source, for whoever looks at how it can be read. headers: names in lower case."""

    key: str
    size: int
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)


class AwsSide:
    """Over boto3, with this machine's credentials. `sample` and `region` are known once `reading` and `where` were asked."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self.sample: Sample | None = None
        self.region = ""
        self._client: Any = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def _bucket(self) -> str:
        return self._patient.source.bucket

    def client(self) -> Any:
        """S3 with this machine's credentials."""
        if self._client is None:
            self._client = boto3.Session().client("s3")
        return self._client

    def access(self) -> Iterator[Finding]:
        """How the service itself is to open S3."""
        name, settings = "how the service opens S3", self._patient.settings
        if settings.s3_role_arn:
            told = f"it assumes {settings.s3_role_arn}; only a transfer can tell whether it may"
            yield skipped(name, told)
        elif settings.s3_credentials_secret:
            yield skipped(name, f"with {settings.s3_credentials_secret}; only a transfer can tell")
        elif os.environ.get("AWS_SESSION_TOKEN"):
            fix = "give --s3-role-arn or --s3-credentials-secret, or the keys of an IAM user"
            yield failed(name, "the environment's keys are temporary, and the service takes only lasting ones", fix)
        elif os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
            yield passed(name, "with the environment's key pair; the next checks use it")
        else:
            fix = "give --s3-role-arn, --s3-credentials-secret, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            yield failed(name, "no role, no secret, no keys in the environment", fix)

    def where(self) -> Iterator[Finding]:
        """The bucket's region, and the one that this machine says."""
        name = "AWS region"
        said = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        session = boto3.Session()
        known = sorted({one for part in session.get_available_partitions() for one in session.get_available_regions("s3", part)})
        if said and said not in known:
            near = difflib.get_close_matches(said, known, n=1)
            yield failed(
                name,
                f"AWS_REGION says {said!r}, and there is no such region",
                f"export AWS_REGION={near[0] if near else 'us-east-1'}",
            )
            return
        if not self._credentials():
            return
        try:
            found = self.client().get_bucket_location(Bucket=self._bucket).get("LocationConstraint") or "us-east-1"
        except ClientError as error:
            if _code(error) not in ("AccessDenied", "403"):
                return  # the next check says what is wrong
            told = "nobody can tell: s3:GetBucketLocation is missing, which the service needs, too"
            yield warned(name, told, LIST_POLICY.format(bucket=self._bucket))
            return
        self.region = "eu-west-1" if found == "EU" else str(found)
        if said and said != self.region and self._patient.routes & OWN_ROUTES:
            told = (
                f"s3://{self._bucket} is in {self.region}, and AWS_REGION says {said}: the workers would ask the wrong endpoint"
            )
            yield failed(name, told, f"export AWS_REGION={self.region}")
        else:
            yield passed(name, f"s3://{self._bucket} is in {self.region}")
        if Route.STS_S3.value in self._patient.routes:
            yield self._for_transfers()

    def _for_transfers(self) -> Finding:
        """Whether the service reads this region. Its lists change, so that what is not on them is only doubted."""
        name = "AWS region for transfers"
        fault = region_fault(self.region, private_network=self._patient.settings.s3_managed_private_network)
        return passed(name, f"the service lists {self.region}") if fault is None else warned(name, *fault)

    def _credentials(self) -> bool:
        return boto3.Session().get_credentials() is not None

    def reading(self) -> Iterator[Finding]:
        """List one object, and read one byte of it."""
        listing, reading = "list the source", "read the source"
        if not self._credentials():
            needed = self._patient.routes & OWN_ROUTES
            told = "no AWS credentials on this machine"
            if needed:
                yield failed(
                    listing,
                    f"{told}, and route {min(needed)} lists from here",
                    "export AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
                )
            else:
                yield skipped(listing, f"{told}; the service has its own. Failed objects cannot be found without them")
            return
        try:
            page = self.client().list_objects_v2(
                Bucket=self._bucket, Prefix=self._patient.source.path, MaxKeys=25, OptionalObjectAttributes=list(OPTIONAL)
            )
        except ClientError as error:
            yield failed(listing, *_refused(error, self._bucket))
            return
        yield from self._skew(page["ResponseMetadata"]["HTTPHeaders"])
        contents = [one for one in page.get("Contents", ()) if unreadable(listed_of(one)) is None]
        if not contents:
            yield warned(
                listing, f"{self._patient.source} has no object that can be read", "is the bucket, and the path in it, right?"
            )
            return
        yield passed(listing, f"s3:ListBucket on {self._bucket}")
        yield from self._read(sorted(contents, key=lambda one: not one["Size"])[:TRIED_MAX], reading)

    def _read(self, candidates: Sequence[Mapping[str, Any]], name: str) -> Iterator[Finding]:
        """Read a byte of the first object that is in no archive tier."""
        for found in candidates:
            key = found["Key"]
            wanted = {"Range": "bytes=0-0"} if found["Size"] else {}
            try:
                answer = self.client().get_object(Bucket=self._bucket, Key=key, **wanted)
                answer["Body"].close()
            except ClientError as error:
                if _code(error) == "InvalidObjectState":
                    continue
                told, fix = _refused(error, self._bucket, reading=True)
                yield failed(name, f"{key!r}: {told}", fix)
                return
            yield from self._told(found, answer, name)
            return
        told = f"the first {len(candidates)} objects are in an archive tier of {TIERING}, as {candidates[0]['Key']!r}"
        yield warned(name, told, f"restore what is to travel: {FOR_GOOD}")

    def _told(self, found: Mapping[str, Any], answer: Mapping[str, Any], name: str) -> Iterator[Finding]:
        key = found["Key"]
        headers = {name.lower(): value for name, value in answer["ResponseMetadata"]["HTTPHeaders"].items()}
        self.sample = Sample(key=key, size=found["Size"], etag=found["ETag"].strip('"'), headers=headers)
        yield passed(name, f"s3:GetObject on {key!r}")
        if answer.get("SSEKMSKeyId"):
            told = f"objects are encrypted with {answer['SSEKMSKeyId']}: ETags are no MD5; copies are compared by crc32c or size"
            yield warned(
                "KMS key of the source",
                told,
                f"whoever reads (the service's role, too) needs kms:Decrypt on {answer['SSEKMSKeyId']}",
            )

    def _skew(self, headers: Mapping[str, str]) -> Iterator[Finding]:
        said = headers.get("date")
        if said:
            yield skew("S3", said, self._patient.now_s())


def listed_of(found: Mapping[str, Any]) -> Listed:
    """An object of boto3's listing as ours has it."""
    status = found.get("RestoreStatus", {})
    restore = RESTORING if status.get("IsRestoreInProgress") else RESTORED if "RestoreExpiryDate" in status else ""
    modified = found["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return Listed(found["Key"], found["Size"], found["ETag"].strip('"'), modified, found.get("StorageClass", STANDARD), restore)


def skew(whose: str, date: str, now_s: float) -> Finding:
    """How far this machine's clock is from a server's, whole seconds."""
    off = now_s - parsedate_to_datetime(date).timestamp()
    name = "clock"
    told = f"{abs(off):,.0f} s {'ahead of' if off > 0 else 'behind'} {whose}'s"
    fix = "synchronise it (timedatectl set-ntp true): signatures and tokens depend on it"
    if abs(off) >= SKEW_FAIL_S:
        return failed(name, told, fix)
    return (
        warned(name, told, fix) if abs(off) >= SKEW_WARN_S else passed(name, f"within {max(1.0, abs(off)):,.0f} s of {whose}'s")
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(error: ClientError, bucket: str, *, reading: bool = False) -> tuple[str, str]:
    """What S3's refusal means, and what to do."""
    code, message = _code(error), str(error.response.get("Error", {}).get("Message", ""))
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"):
        return f"S3 does not take these credentials ({code})", "mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
    if code in ("NoSuchBucket", "404"):
        return f"there is no bucket s3://{bucket}", "mend --source-bucket"
    if code in ("AccessDenied", "403", "AllAccessDisabled"):
        if "kms" in message.lower():
            return f"{code}: {message}", "let the key's policy give this account kms:Decrypt"
        return f"{code}: {message}", (GET_POLICY if reading else LIST_POLICY).format(bucket=bucket)
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is too far off", "synchronise it (timedatectl set-ntp true)"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return f"the bucket is in another region ({code})", "export AWS_REGION=, the bucket's own"
    return f"{code}: {message}", "see what S3 says; then run this again"

"""How this machine reaches the clouds: endpoints, the CDN, keys. Of a worker it is all that no message says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cdn_worker.credentials.provider import Keyring
from cdn_worker.domain.keys import KeyMapping, encoded
from cdn_worker.domain.signing import LIFE, Digest, Signer
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.http.engine import Limits
from cdn_worker.storage.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The callables give keys at once, and when they end; None where none are needed.

    refused    is told that keys were refused; fetching: whether others are on their way
    lacking    says why there are none at the moment; empty when there are

    cdn_url         put before a key; `{bucket}` in it stands for the source's bucket; empty: objects are read from S3 itself
    substitutions   (old, new) pairs put in place in the path of the CDN's URL
    """

    s3_endpoint: str
    s3_region: str
    sink_endpoint: str
    cdn_url: str = ""
    key_pair_id: str = ""
    digest: Digest = Digest.SHA1
    life: timedelta = LIFE
    substitutions: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    buffer_bytes: int = 256 << 20
    slots: tuple[int, int] = (16, 512)
    backoff_s: float = 0.5
    aws: Callable[[], tuple[AwsKeys, datetime | None]] | None = None
    google: Callable[[], tuple[str, datetime | None]] | None = None
    signer: Signer | None = None
    refused: Callable[[], None] = lambda: None
    fetching: Callable[[], bool] = lambda: False
    lacking: Callable[[], str] = lambda: ""

    def cdn_of(self, bucket: str) -> str:
        return self.cdn_url.replace("{bucket}", bucket)

    def setup(
        self,
        source_bucket: str,
        sink_bucket: str,
        mapping: KeyMapping,
        *,
        storage_class: str = "",
        kms_key: str = "",
        multipart_etags: bool = True,
    ) -> Setup:
        """From one bucket to another. The mapping's substitutions are ours."""
        return Setup(
            s3_endpoint=self.s3_endpoint,
            s3_region=self.s3_region,
            source_bucket=source_bucket,
            sink_endpoint=self.sink_endpoint,
            sink_bucket=sink_bucket,
            mapping=mapping,
            cdn_url=self.cdn_of(source_bucket),
            key_pair_id=self.key_pair_id,
            storage_class=storage_class,
            kms_key=kms_key,
            limits=self.limits,
            buffer_bytes=self.buffer_bytes,
            slots=self.slots,
            multipart_etags=multipart_etags,
            backoff_s=self.backoff_s,
        )

    def keyring(self, bucket: str, prefix: str) -> Keyring:
        """Who makes access for a prefix: one signature for each; where substitutions lead anywhere, for all of the CDN."""
        under = "" if self.substitutions else encoded(prefix)
        return Keyring(
            aws=self.aws,
            google=self.google,
            signer=self.signer,
            base_url=f"{self.cdn_of(bucket)}{under}",
            key_pair_id=self.key_pair_id,
            digest=self.digest,
            life=self.life,
            refused=self.refused,
            fetching=self.fetching,
        )

"""Who holds the keys: AWS credentials, the CDN's private key, Google's token. It makes an `Access`, and makes it anew in time.

Credentials come from the providers of this process (`credentials`), which fetch them in threads of their own: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.signing import LIFE, Digest, SignedPrefix, Signer, sign_prefix
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.ports import Access

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
EARLY = timedelta(minutes=5)
RENEW_AT_MOST_EVERY = timedelta(seconds=2)


class Keyring:
    """Makes access.

    aws         the present AWS credentials, and when they end; None where S3 is public or a stage
    signer      the CDN's private key; `base_url` is what is signed, with everything under it
    google      Google's token, and when it ends; None against a stage
    refused     is told when a side refused what there is: others are fetched then
    fetching    whether these are on their way
    """

    def __init__(
        self,
        *,
        aws: Callable[[], tuple[AwsKeys, datetime | None]] | None,
        google: Callable[[], tuple[str, datetime | None]] | None,
        signer: Signer | None = None,
        base_url: str = "",
        key_pair_id: str = "",
        digest: Digest = Digest.SHA1,
        life: timedelta = LIFE,
        refused: Callable[[], None] = lambda: None,
        fetching: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._aws, self._google, self._signer = aws, google, signer
        self._base_url, self._key_pair_id, self._digest, self._life = base_url, key_pair_id, digest, life
        self._now, self._refused, self._fetching = now, refused, fetching
        self._version = 0
        self._awaited = False
        self._made: datetime | None = None
        self._signed: SignedPrefix | None = None

    def access(self) -> Access:
        """A fresh one. Raises BadInput when credentials are missing."""
        now = self._now()
        self._version += 1
        self._made, self._awaited = now, False
        ends: list[datetime | None] = []
        keys = bearer = None
        if self._aws is not None:
            keys, end = self._aws()
            ends.append(end)
        if self._google is not None:
            bearer, end = self._google()
            ends.append(end)
        if self._signer is not None:
            signed = sign_prefix(
                self._base_url, key_pair_id=self._key_pair_id, sign=self._signer, now=now, digest=self._digest, life=self._life
            )
            self._signed = signed
        early = [end - EARLY for end in ends if end is not None]
        return Access(
            aws=keys,
            signed=self._signed.query if self._signed is not None else "",
            bearer=bearer or "",
            until=min(early, default=None),
            version=self._version,
        )

    def due(self, access: Access) -> bool:
        """Whether it should be made anew by now."""
        now = self._now()
        if self._awaited and not self._fetching():
            return True
        if self._signed is not None and self._signed.due(now):
            return True
        return access.until is not None and now >= access.until and self._rested(now) and self._newer(access)

    def _newer(self, access: Access) -> bool:
        """Whether the providers have others by now. Raises nothing: what is away is told by who asks for an access."""
        try:
            keys = None if self._aws is None else self._aws()[0]
            bearer = "" if self._google is None else self._google()[0]
        except BadInput:
            return False
        return (keys, bearer) != (access.aws, access.bearer)

    def renewed(self, refused: int) -> Access | None:
        """A fresh one in place of version `refused`; None when that is not the newest any more, is very new, or is `awaited`."""
        if refused != self._version or not self._rested(self._now()):
            return None
        self._refused()
        if self._fetching():
            self._awaited = True
            return None
        return self.access()

    @property
    def awaited(self) -> bool:
        """Whether others are on their way: to try again with those that were refused would be in vain. `due` tells of them."""
        return self._awaited and self._fetching()

    def _rested(self, now: datetime) -> bool:
        return self._made is None or not timedelta(0) <= now - self._made < RENEW_AT_MOST_EVERY


def aws_credentials(profile: str | None = None) -> Callable[[], tuple[AwsKeys, datetime | None]]:
    """What fetches AWS credentials by AWS's own chain: environment, profile, role of the machine. Raises BadInput for none."""
    import boto3  # noqa: PLC0415 - costs a tenth of a second and 25 MiB
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        credentials = boto3.Session(profile_name=profile).get_credentials()
    except BotoCoreError as error:
        raise BadInput(f"AWS credentials: {error}") from error
    if credentials is None:
        raise BadInput(
            "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role gives them"
        )

    def fetch() -> tuple[AwsKeys, datetime | None]:
        try:
            frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise BadInput(f"AWS credentials: {error}") from error
        # Temporary ones renew themselves when asked near their end; so they are asked for again every few minutes.
        end = datetime.now(UTC) + timedelta(minutes=15) if frozen.token else None
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token or ""), end

    return fetch


def google_token() -> Callable[[], tuple[str, datetime | None]]:
    """What fetches a token by Google's application default credentials. Raises BadInput when there are none."""
    import google.auth  # noqa: PLC0415 - as above
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    from google.auth.transport.requests import Request  # noqa: PLC0415

    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except GoogleAuthError as error:
        raise BadInput(f"Google credentials: {error}") from error

    def fetch() -> tuple[str, datetime | None]:
        try:
            credentials.refresh(Request())  # type: ignore[no-untyped-call]
        except GoogleAuthError as error:
            raise BadInput(f"Google credentials: {error}") from error
        end: datetime | None = credentials.expiry
        return str(credentials.token), None if end is None else end.replace(tzinfo=UTC)

    return fetch

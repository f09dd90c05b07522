"""The private key of a CloudFront key pair: RSA or ECDSA, from a PEM file or Secret Manager, as a `Signer`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.signing import Digest, Signer

SECRETS = "https://secretmanager.googleapis.com"
RSA_BITS = 2048
"""The one RSA size that CloudFront takes (CloudFront, creating key pairs)."""


def signer_of(pem: bytes, digest: Digest, *, told: str) -> Signer:
    """A signer with this key. `told`: where it came from, for errors. Raises BadInput, never with a part of the key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise BadInput(
            f"{told}: the private key is encrypted; store it without a passphrase, readable by this user only"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(f"{told}: this is no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None
    # CloudFront's default is SHA-1
    hash_: hashes.HashAlgorithm = hashes.SHA1() if digest is Digest.SHA1 else hashes.SHA256()  # noqa: S303  # nosec B303
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size != RSA_BITS:
            raise BadInput(f"{told}: an RSA key of {key.key_size} bits; CloudFront takes {RSA_BITS}")
        pair = key
        return lambda message: pair.sign(message, padding.PKCS1v15(), hash_)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise BadInput(f"{told}: an EC key on the curve {key.curve.name}; CloudFront takes prime256v1")
        curve = key
        return lambda message: curve.sign(message, ec.ECDSA(hash_))
    raise BadInput(f"{told}: CloudFront signs with RSA or ECDSA keys, and this is neither")


def signer_from_file(path: Path, digest: Digest) -> Signer:
    """A signer with the key of a PEM file. Raises BadInput that names the file."""
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise BadInput(f"--cdn-private-key-file {path} cannot be read: {error.strerror}") from error
    return signer_of(pem, digest, told=f"--cdn-private-key-file {path}")


def signer_from_secret(name: str, digest: Digest, *, session: Any = None, endpoint: str = SECRETS) -> Signer:
    """A signer whose PEM is in Secret Manager. Raises BadInput that names the secret, never with a part of the key.

    name      `projects/P/secrets/S`, or a version of it; else the latest
    session   a requests session that is authorised; one with the default credentials when not given
    """
    parts = name.split("/")
    if len(parts) not in (4, 6) or parts[0] != "projects" or parts[2] != "secrets" or not all(parts):
        raise BadInput(f"--cdn-private-key-secret {name!r}: it is written projects/PROJECT/secrets/NAME[/versions/VERSION]")
    version = name if len(parts) == 6 else f"{name}/versions/latest"
    if session is None:
        import google.auth  # noqa: PLC0415 - costs a tenth of a second, and most need it not
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.auth.transport.requests import AuthorizedSession  # noqa: PLC0415

        try:
            credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        except GoogleAuthError as error:
            raise BadInput(f"Google credentials: {error}") from error
        session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    answer = session.get(f"{endpoint}/v1/{version}:access", timeout=30)
    if answer.status_code != 200:
        hint = "; it needs secretmanager.versions.access" if answer.status_code == 403 else ""
        said = f"Secret Manager answered {answer.status_code}{_said(answer)}{hint}"
        raise BadInput(f"--cdn-private-key-secret {version}: {said}")
    try:
        pem = base64.b64decode(answer.json()["payload"]["data"])
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"--cdn-private-key-secret {version}: Secret Manager's answer has no payload") from error
    return signer_of(pem, digest, told=f"--cdn-private-key-secret {version}")


def _said(answer: Any) -> str:
    """The service's own words in an error, after a colon; empty when there are none."""
    try:
        return f": {answer.json()['error']['message']}"
    except (KeyError, ValueError, TypeError):
        return ""

"""The data plane's commands. Exit codes: 0 done, 2 bad usage or settings."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.signing import Digest, sign_prefix
from cdn_worker.keypairs import signer_from_file

EXIT_USAGE = 2
app = typer.Typer(
    name="cdn-worker",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fetches objects through CloudFront for Cloud Storage. In this version: signed URLs, to check a distribution with curl.",
)


@app.callback()
def _root() -> None:
    pass


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
    try:
        if not cdn_url.startswith(("https://", "http://")) or not cdn_url.endswith("/"):
            raise BadInput(f"--cdn-url {cdn_url!r}: it is written https://DOMAIN/ or https://DOMAIN/path/, with a '/' at its end")
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
    except (BadInput, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from error
    print(signed.url(url))


def main() -> None:
    """The entry point of `cdn-worker`."""
    app()


if __name__ == "__main__":
    main()

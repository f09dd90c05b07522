"""Which certificate authorities are trusted: a file that the environment names, as for the other clients in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import certifi

from cdn_worker.domain.errors import BadInput

VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
"""Of OpenSSL, curl, boto3 and requests: whoever sets one for those means this program, too. The first that is set counts."""


def find_ca_file(environment: Mapping[str, str]) -> str:
    """The file of trusted certificates. Raises BadInput where a variable names what is not a file."""
    for variable in VARIABLES:
        named = environment.get(variable)
        if named and not Path(named).is_file():
            raise BadInput(f"{variable} is {named!r}, and there is no such file: it names a file of certificates (PEM)")
        if named:
            return named
    return certifi.where()

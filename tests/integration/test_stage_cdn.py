"""The CDN of the stage opens to signatures only, serves ranges, and misbehaves on command; our signatures open it."""

from __future__ import annotations

import gzip
import http.client
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cdn_worker.credentials.signing_keys import signer_from_file, signer_of
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.signing import Digest, SignedPrefix, sign_prefix
from tests.stages import SOURCE, fill
from tools.emulators.cdn import BODIES, KEY_PAIR_ID, STATUSES
from tools.emulators.stage import Stage

BODY = bytes(range(256)) * 8
HARD = ["a b", "100%", "a%20b", "a+b", "what?x=1", "c#", "double//slash", "x/../y", "./dot", "日本", "new\nline", "star*", "[x]"]


@pytest.fixture
def cdn(stage: Stage) -> Stage:
    fill(stage, {"dir/plain": BODY, **{f"dir/{name}": name.encode() for name in HARD}})
    return stage


def base(bucket: str = SOURCE) -> str:
    return f"http://{os.environ['CDN_EMULATOR_HOST']}/{bucket}/"


def signed(key_pair_id: str = KEY_PAIR_ID, *, now: datetime | None = None, digest: Digest = Digest.SHA1) -> SignedPrefix:
    path = Path(os.environ["CDN_PRIVATE_KEY_FILE"]).with_name(f"{key_pair_id}.pem")
    sign = signer_from_file(path, digest)
    return sign_prefix(f"{base()}dir/", key_pair_id=key_pair_id, sign=sign, now=now or datetime.now(UTC), digest=digest)


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask("GET", url, b"", **headers)


def ask(method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request, its target sent as it is."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        target = url.removeprefix(f"{parts.scheme}://{parts.netloc}")
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("key_pair_id", [KEY_PAIR_ID, f"{KEY_PAIR_ID}EC"])
@pytest.mark.parametrize("digest", list(Digest))
def test_rsa_and_ecdsa_under_both_digests_open_a_prefix(cdn: Stage, key_pair_id: str, digest: Digest) -> None:
    status, headers, body = get(signed(key_pair_id, digest=digest).url(f"{base()}dir/plain"))
    assert (status, body) == (200, BODY)
    assert headers["content-length"] == str(len(BODY))


@pytest.mark.parametrize("name", HARD)
def test_every_legal_key_is_that_object(cdn: Stage, name: str) -> None:
    assert get(signed().url(f"{base()}dir/{encoded(name)}"))[2] == name.encode()


def test_what_is_not_signed_right_is_refused_with_the_reason(cdn: Stage) -> None:
    good = signed().url(f"{base()}dir/plain")
    old = signed(now=datetime.now(UTC) - timedelta(days=8)).url(f"{base()}dir/plain")
    for url, told in (
        (f"{base()}dir/plain", b"MissingKey"),
        (good.replace("/dir/plain", "/elsewhere"), b"<Code>AccessDenied</Code><Message>Access denied<"),
        (good.replace(f"Key-Pair-Id={KEY_PAIR_ID}", f"Key-Pair-Id={KEY_PAIR_ID}EC"), b"Access denied"),
        (good.replace(f"Key-Pair-Id={KEY_PAIR_ID}", "Key-Pair-Id=KNOBODY"), b"<Code>InvalidKey</Code><Message>Unknown Key<"),
        (good + "&Hash-Algorithm=SHA256", b"Access denied"),
        (good.replace("Signature=", "Signature=!"), b"<Code>MalformedSignature</Code><Message>Could not unencode Signature<"),
        (good.replace("Policy=ey", "Policy=!!"), b"MalformedPolicy"),
        (old, b"Access denied"),
    ):
        status, _, body = get(url)
        assert (status, told in body) == (403, True), (url, body)
    cdn.ledger.change({"cdn.public": True})
    assert get(f"{base()}dir/plain")[0] == 200


def test_ranges_conditions_and_missing_objects(cdn: Stage) -> None:
    url = signed().url(f"{base()}dir/plain")
    etag = get(url)[1]["etag"]
    status, headers, body = get(url, Range="bytes=10-19", If_Match=etag)
    assert (status, body, headers["content-range"]) == (206, BODY[10:20], f"bytes 10-19/{len(BODY)}")
    assert get(url, Range="bytes=2000-")[2] == BODY[2000:]
    assert get(url, Range="bytes=-5")[2] == BODY[-5:]
    assert get(url, Range="bytes=9999-")[0] == 416
    assert get(url, If_Match='"other"')[0] == 412
    assert get(signed().url(f"{base()}dir/nothing"))[0] == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_and_head_are_allowed_signed_or_not(cdn: Stage, method: str) -> None:
    for url in (signed().url(f"{base()}dir/plain"), f"{base()}dir/plain"):
        status, headers, body = ask(method, url, b"x" * 100_000 if method in ("PUT", "POST") else b"")
        assert (status, headers["x-cache"]) == (403, "Error from cloudfront")
        assert b"not configured to allow the HTTP request method" in body
    assert get(signed().url(f"{base()}dir/plain"))[2] == BODY, "and it is as it was"


def test_what_the_caller_has_already_is_not_sent_again(cdn: Stage) -> None:
    url = signed().url(f"{base()}dir/plain")
    etag = get(url)[1]["etag"]
    for wanted in (etag, "*", f'"other", {etag}'):
        status, headers, body = get(url, If_None_Match=wanted)
        assert (status, headers["etag"], body) == (304, etag, b"")
        assert ask("HEAD", url, If_None_Match=wanted)[0] == 304
    assert get(url, If_None_Match='"other"')[2] == BODY
    assert get(url, If_Match=f'"other", {etag}')[0] == 200


def test_the_origin_is_asked_for_no_more_than_the_viewer_wants(cdn: Stage) -> None:
    sent: list[int] = []
    assert cdn.cdn is not None
    events = cdn.cdn._s3.meta.events
    count = lambda parsed, **_: sent.append(parsed.get("ContentLength", 0))  # noqa: E731 - to be unregistered
    events.register("after-call.s3.GetObject", count)
    try:
        url = signed().url(f"{base()}dir/plain")
        for range_, wanted in (("bytes=10-19", BODY[10:20]), ("bytes=2000-", BODY[2000:]), ("bytes=-5", BODY[-5:])):
            assert get(url, Range=range_)[2] == wanted
        assert sent == [10, len(BODY) - 2000, 5]
        status, headers, _ = ask("HEAD", url)
        assert (status, headers["content-length"], len(sent)) == (200, str(len(BODY)), 3)
        assert get(url, Range="bytes=9-2")[2] == BODY, "a range that makes no sense is passed over"
    finally:
        events.unregister("after-call.s3.GetObject", count)


@pytest.mark.parametrize("error", STATUSES)
def test_refusals_on_command(cdn: Stage, error: str) -> None:
    cdn.ledger.add_rule({"service": "cdn", "method": "GET", "error": error})
    url = signed().url(f"{base()}dir/plain")
    status, headers, _ = get(url)
    assert status == STATUSES[error][0]
    assert ("retry-after" in headers) == (status == 429)
    assert get(url)[0] == 200
    assert cdn.ledger.rules[0].fired == 1


@pytest.mark.parametrize("error", [one for one in BODIES if one != "SLOW"])
def test_bodies_that_lie_on_command(cdn: Stage, error: str) -> None:
    url = signed().url(f"{base()}dir/plain")
    etag = get(url)[1]["etag"]
    cdn.ledger.add_rule({"service": "cdn", "method": "GET", "error": error})
    half = len(BODY) // 2
    match error:
        case "TRUNCATED":
            with pytest.raises(http.client.IncompleteRead) as cut:
                get(url)
            assert cut.value.partial == BODY[:half]
        case "RESET":
            with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
                get(url)
        case "NO_LENGTH":
            _, headers, body = get(url)
            assert ("content-length" in headers, body) == (False, BODY[:half])
        case "TOO_LONG":
            assert len(get(url)[2]) > len(BODY)
        case "COMPRESSED":
            _, headers, body = get(url)
            assert (headers["content-encoding"], gzip.decompress(body)) == ("gzip", BODY)
            assert headers["etag"] == f"W/{etag}"
        case "CHANGED_ETAG":
            assert get(url)[1]["etag"] != etag
        case "REDIRECT":
            assert get(url)[0] == 302
        case "WHOLE":
            status, headers, body = get(url, Range="bytes=0-9")
            assert (status, body, "content-range" in headers) == (200, BODY, False)
    assert cdn.ledger.rules[0].fired == 1
    assert get(url)[0] == 200, "and then all is well again"


def test_a_slow_peer_on_command(cdn: Stage) -> None:
    cdn.ledger.add_rule({"service": "cdn", "method": "GET", "error": "SLOW"})
    assert get(signed().url(f"{base()}dir/c%23"))[2] == b"c#"


# Key files


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "no private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----", "no private key in PEM form"),
        (pem(rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits; CloudFront takes 2048"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "on the curve secp384r1; CloudFront takes prime256v1"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "RSA or ECDSA keys, and this is neither"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"word"), "is encrypted"),
    ],
)
def test_keys_that_will_not_do(text: bytes, told: str) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        signer_of(text, Digest.SHA1, told="key.pem")
    assert str(refused.value).startswith("key.pem: ")
    assert "secret" not in str(refused.value)


def cdn_worker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cdn_worker", *words], capture_output=True, text=True, check=False)


def test_sign_url_prints_a_url_for_curl(cdn: Stage) -> None:
    flags = ["--cdn-url", base(), "--cdn-key-pair-id", KEY_PAIR_ID, "--cdn-private-key-file", os.environ["CDN_PRIVATE_KEY_FILE"]]
    ran = cdn_worker("sign-url", "dir/a b", *flags)
    assert ran.returncode == 0, ran.stderr
    assert get(ran.stdout.strip())[2] == b"a b"
    other = ran.stdout.strip().replace("a%20b", "a%20bc")
    assert get(other)[0] == 403, "it opens this one object"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--cdn-url", "d.example"], "--cdn-url 'd.example': it is written https://DOMAIN/"),
        (["--cdn-private-key-file", "nowhere.pem"], "--cdn-private-key-file nowhere.pem cannot be read: No such file"),
        (["--life", "0"], "'--life': Input should be greater than or equal to 1"),
    ],
)
def test_wrong_input_to_sign_url(flags: list[str], told: str) -> None:
    defaults = ["--cdn-url", "https://d.example/", "--cdn-key-pair-id", "K1", "--cdn-private-key-file", "/dev/null"]
    ran = cdn_worker("sign-url", "key", *defaults, *flags)
    assert (ran.returncode, told in ran.stderr) == (2, True), ran.stderr

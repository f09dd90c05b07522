"""Where the copiers compete: nginx as origin and as sink, plain or TLS, with or without the latency of a far service.

The sink takes a PUT of the XML API's shape and echoes the hash and the length that it was sent, so the copier's own checks are
made; it stores nothing. So what is measured is the copier.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MODIFIED = 1_700_000_000
ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")

CONFIG = """
{load}
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; tcp_nopush off; server_tokens off;
  keepalive_requests 100000000; keepalive_timeout 300s; client_max_body_size 0; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  default_type application/octet-stream;
  map $http_x_goog_hash $said_crc32c {{ "~(crc32c=[^,]+)" $1; }}
  map $http_x_goog_hash $said_md5 {{ "~(md5=[^,]+)" $1; }}
  {tls}
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=4096;
    location /source/ {{ root {folder}/data; {get_delay} }}
    location @now {{ root {folder}/data; }}
    location /sink/ {{
      {put_delay}
      add_header x-goog-generation 1700000000000001 always;
      add_header x-goog-hash $said_crc32c always;
      add_header x-goog-hash $said_md5 always;
      add_header x-goog-stored-content-length $content_length always;
      {put_answer}
    }}
    location /upload/ {{
      add_header Location {scheme}://127.0.0.1:{port}/session/$arg_name always;
      return 200 "";
    }}
    {listing}
    location /session/ {{
      return 200 '{resource}';
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Grounds:
    """One running set-up: where objects are, how many, how large, and the ETag that nginx gives each of them."""

    origin: str
    json_sink: str
    ca_file: str
    names_file: str
    objects: int
    size: int
    tls: bool
    put_ms: int = 0

    @property
    def etag(self) -> str:
        return f"{MODIFIED:x}-{self.size:x}"


def available() -> str | None:
    """Why this cannot be run here; None when it can."""
    return None if shutil.which("nginx") else "nginx is not installed"


@contextmanager
def grounds(*, objects: int, size: int, tls: bool, get_ms: int = 0, put_ms: int = 0, listing: str = "") -> Iterator[Grounds]:
    """Start nginx on a free port of the loopback, with `objects` names for one file of `size` bytes.

    listing   the address that what is asked of the JSON API is passed on to
    """
    folder = Path(tempfile.mkdtemp(prefix="sts-manager-bench-"))
    try:
        resource = _fill(folder, objects, size)
        certificate(folder)
        port = _free_port()
        config = CONFIG.format(
            load=f"load_module {ECHO_MODULE};" if get_ms or put_ms else "",
            folder=folder,
            port=port,
            scheme="https" if tls else "http",
            ssl="ssl" if tls else "",
            tls=f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;" if tls else "",
            get_delay=f"echo_sleep {get_ms / 1000}; echo_exec @now;" if get_ms else "",
            listing=f"location /storage/ {{ proxy_pass {listing}; }}" if listing else "",
            put_delay=f"echo_read_request_body; echo_sleep {put_ms / 1000};" if put_ms else "",
            put_answer='echo -n "";' if put_ms else 'return 200 "";',
            resource=json.dumps(resource),
        )
        (folder / "nginx.conf").write_text(config)
        told: dict[str, Any] = {"resource": resource, "put_ms": put_ms}
        if tls:
            told |= {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
        server = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
        sink = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.copying.json_sink", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            _wait_for(port, server)
            assert sink.stdout is not None
            yield Grounds(
                origin=f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                json_sink=sink.stdout.readline().strip(),
                ca_file=str(folder / "cert.pem"),
                names_file=str(folder / "names"),
                objects=objects,
                size=size,
                tls=tls,
                put_ms=put_ms,
            )
        finally:
            for process in (server, sink):
                process.terminate()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, objects: int, size: int) -> dict[str, Any]:
    """All names for one file; returns the resource of such an object."""
    data = folder / "data" / "source"
    data.mkdir(parents=True)
    one = folder / "one"
    block = os.urandom(min(size, 1 << 20))
    crc, md5 = 0, hashlib.md5(usedforsecurity=False)
    with one.open("wb") as file:
        for _ in range(max(1, size // max(1, len(block)))):
            file.write(block)
            crc = google_crc32c.extend(crc, block)
            md5.update(block)
    os.utime(one, (MODIFIED, MODIFIED))
    names = [name_of(index) for index in range(objects)]
    for index, name in enumerate(names):
        path = data / name
        if index % 1000 == 0:
            path.parent.mkdir()
        path.hardlink_to(one)
    (folder / "names").write_text("".join(f"{name}\n" for name in names))
    return {
        "kind": "storage#object",
        "bucket": "sink",
        "generation": "1700000000000001",
        "metageneration": "1",
        "size": str(size),
        "crc32c": base64.b64encode(crc.to_bytes(4)).decode(),
        "md5Hash": base64.b64encode(md5.digest()).decode(),
        "updated": "2026-11-21T03:00:00.000Z",
        "timeCreated": "2026-11-21T03:00:00.000Z",
        "contentType": "application/octet-stream",
    }


def name_of(index: int) -> str:
    return f"{index // 1000:03}/object-{index:07}"


def certificate(folder: Path) -> None:
    """A certificate for the loopback, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise RuntimeError("nginx did not start")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("nginx does not listen")

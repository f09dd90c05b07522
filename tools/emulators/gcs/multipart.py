"""The body of a JSON API multipart upload."""

from __future__ import annotations

import json
import re
from email.parser import BytesParser
from typing import Any

from tools.emulators.gcs.objects import Refused
from tools.emulators.web import Request


def parse_multipart(request: Request) -> tuple[dict[str, Any], bytes]:
    """A multipart/related body: the resource, then the bytes exactly as sent.

    Lines end as the first one does. gsutil ends them with a bare newline, and names its boundary in single quotes; the service
    takes both.
    """
    head = b"Content-Type: " + request.headers.get("content-type", "").encode() + b"\r\n\r\n"
    boundary = BytesParser().parsebytes(head).get_boundary()
    if boundary is None:
        raise Refused(400, "invalid", "multipart upload without a boundary")
    mark = b"--" + boundary.strip("'").encode()
    parts = request.body.split(mark)
    end = b"\r\n" if request.body.startswith(mark + b"\r\n") else b"\n"
    if len(parts) < 4 or not parts[-1].startswith(b"--"):
        # The bytes themselves may hold the mark: only the first two and the last one delimit.
        raise Refused(400, "badRequest", "Malformed multipart body")
    _, _, resource_text = parts[1].partition(end * 2)
    payload = mark.join(parts[2:-1])
    part_head, _, data = payload.partition(end * 2)
    try:
        body = json.loads(resource_text)
    except ValueError as error:
        raise Refused(400, "parseError", "Parse Error") from error
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", part_head)
    if kind and "contentType" not in body:
        body["contentType"] = kind[1].decode()
    return body, data.removesuffix(end)

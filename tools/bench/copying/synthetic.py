"""A bucket of as many keys as one likes, in no memory: S3's listing and Cloud Storage's, over real HTTP.

`python -m tools.bench.copying.synthetic KEYS PRESENT [SIZE ETAG]`: prints its address; PRESENT of 100 keys are at the sink,
equal. With a size and an ETag the keys are those of `grounds`.
"""

from __future__ import annotations

import base64
import bisect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, overload
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

from tools.bench.copying.grounds import name_of
from tools.emulators.rawhttp import RawRequest, RawResponse, RawServer

BODY_ETAG = "0123456789abcdef0123456789abcdef"
MD5 = base64.b64encode(bytes.fromhex(BODY_ETAG)).decode()


class Keys(Sequence[str]):
    """Names in the order of UTF-8, made when asked for."""

    def __init__(self, count: int, name: Callable[[int], str] | None = None) -> None:
        self._count, self._name = count, name or _log_name

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._name(index)


class Synthetic:
    """Answers ListObjectsV2 and objects.list."""

    def __init__(self, count: int, present_percent: int, size: int = 0, etag: str = "") -> None:
        self.keys = Keys(count, name_of if size else None)
        self._present = present_percent
        self._size, self._etag = size or 1000, etag or BODY_ETAG

    def handle(self, request: RawRequest) -> RawResponse:
        path, _, query = request.target.partition("?")
        values = dict(parse_qsl(query, keep_blank_values=True))
        if path.startswith("/storage/v1/"):
            body = json.dumps(self._gcs(values)).encode()
            return RawResponse(200, {"Content-Type": "application/json"}, [body], len(body))
        body = self._s3(values)
        return RawResponse(200, {"Content-Type": "application/xml"}, [body], len(body))

    def _s3(self, values: dict[str, str]) -> bytes:
        limit = int(values.get("max-keys") or 1000)
        token = values.get("continuation-token")
        first = int(token) if token else bisect.bisect_right(self.keys, values.get("start-after", ""))
        found = self.keys[first : first + limit]
        more = first + limit < len(self.keys)
        row = (
            "<Contents><Key>{}</Key><LastModified>2026-11-21T03:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self._etag}&quot;</ETag><Size>{self._size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
        head = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
            f"<KeyCount>{len(found)}</KeyCount><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
        )
        if more:
            head += f"<NextContinuationToken>{first + limit}</NextContinuationToken>"
        return (head + "".join(row.format(escape(quote(key))) for key in found) + "</ListBucketResult>").encode()

    def _gcs(self, values: dict[str, str]) -> dict[str, Any]:
        token = values.get("pageToken")
        first = int(token) if token else bisect.bisect_left(self.keys, values.get("startOffset", ""))
        end = bisect.bisect_left(self.keys, values["endOffset"]) if values.get("endOffset") else len(self.keys)
        last = min(first + 1000, end)
        items = [
            {
                "name": self.keys[index],
                "size": str(self._size),
                "generation": str(1_700_000_000_000_000 + index),
                "crc32c": "AAAAAA==",
                "md5Hash": MD5,
            }
            for index in range(first, last)
            if index % 100 < self._present
        ]
        return {"items": items} | ({"nextPageToken": str(last)} if last < end else {})


def _log_name(index: int) -> str:
    return f"logs/{index // 10_000:05}/part-{index:010}.json"


if __name__ == "__main__":
    keys, present, size, etag = (*sys.argv[1:], "0", "")[:4]
    made = Synthetic(int(keys), int(present), int(size), etag)
    server = RawServer(made.handle).start()
    print(f"http://{server.address}", flush=True)
    sys.stdin.read()  # until whoever started it goes away
    server.stop()

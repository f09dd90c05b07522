"""Partial responses of the JSON API: what the `fields` parameter selects of an answer.

The syntax is that of https://cloud.google.com/storage/docs/json_api ("Partial response"): `a,b`, `a/b`, `a(b,c/d)` and the
wildcard `*`. A field that the answer's resource does not have is refused with 400; one that is only absent now selects nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tools.emulators.gcs.objects import Refused

Selection = Mapping[str, Any]
"""Field (or `*`) -> what is selected of it: an empty mapping selects all of it."""
Schema = Mapping[str, Any]
"""Field -> the schema of what it holds; ANY: whatever is asked of it may be there."""
ANY: Schema = {"*": None}
PLAIN: Schema = {}
_TOKEN = re.compile(r"[A-Za-z0-9_.-]+|[*/(),]")


def _fields(text: str, **nested: Schema) -> Schema:
    return dict.fromkeys(text.split(), PLAIN) | nested


def _anything(text: str) -> Schema:
    return dict.fromkeys(text.split(), ANY)


_ACL = _fields(
    "kind id selfLink bucket object generation entity role email entityId domain etag", projectTeam=_fields("projectNumber team")
)
OBJECT = _fields(
    "kind id selfLink mediaLink bucket name generation metageneration contentType storageClass size softDeleteTime "
    "hardDeleteTime restoreToken md5Hash crc32c etag timeCreated updated timeDeleted timeStorageClassUpdated timeFinalized "
    "temporaryHold eventBasedHold retentionExpirationTime contentEncoding contentDisposition contentLanguage cacheControl "
    "customTime componentCount kmsKeyName",
    metadata=ANY,
    contexts=ANY,
    acl=_ACL,
    owner=_fields("entity entityId"),
    customerEncryption=_fields("encryptionAlgorithm keySha256"),
    retention=_fields("mode retainUntilTime"),
)
BUCKET = _fields(
    "kind id selfLink name projectNumber metageneration generation location locationType storageClass etag timeCreated updated "
    "softDeleteTime hardDeleteTime rpo defaultEventBasedHold satisfiesPZS satisfiesPZI",
    **_anything(
        "acl autoclass billing cors customPlacementConfig defaultObjectAcl encryption hierarchicalNamespace iamConfiguration "
        "ipFilter labels lifecycle logging objectRetention owner retentionPolicy softDeletePolicy versioning website"
    ),
)
SCHEMAS: Mapping[str, Schema] = {
    "objects.list": _fields("kind nextPageToken prefixes", items=OBJECT),
    "objects.rewrite": _fields("kind totalBytesRewritten objectSize done rewriteToken", resource=OBJECT),
    "buckets.list": _fields("kind nextPageToken", items=BUCKET),
    "buckets.getIamPolicy": _fields("kind resourceId version etag", bindings=_fields("role members", condition=ANY)),
    "buckets.testIamPermissions": _fields("kind permissions"),
    **dict.fromkeys(("buckets.get", "buckets.insert", "buckets.patch"), BUCKET),
}
"""By the API's method; every other one answers with an object."""


def parse_fields(text: str, method: str) -> Selection:
    """Read a `fields` parameter; raises Refused (400) for one that cannot be read, or that names what the resource has not."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise _refuse(text)
    parser = _Parser(text, tokens)
    selected = parser.parse_list(SCHEMAS.get(method, OBJECT))
    if parser.left:
        raise _refuse(text)
    return selected


def select(value: Any, wanted: Selection) -> Any:
    """What is selected of a value; of a list, of each of its members."""
    if not wanted:
        return value
    if isinstance(value, list):
        return [select(member, wanted) for member in value]
    if not isinstance(value, dict):
        return value
    chosen = {name: wanted.get(name, wanted.get("*")) for name in value}
    return {name: select(value[name], inside) for name, inside in chosen.items() if inside is not None}


class _Parser:
    """By recursive descent: list = path {"," path}; path = field {"/" field} ["(" list ")"]."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self._text, self.left = text, tokens[::-1]

    def parse_list(self, schema: Schema) -> Selection:
        selected: dict[str, Any] = {}
        while True:
            name, inside = self._parse_path(schema)
            selected[name] = _merge(selected[name], inside) if name in selected else inside
            if not self._take(","):
                return selected

    def _parse_path(self, schema: Schema) -> tuple[str, dict[str, Any]]:
        name = self.left.pop() if self.left else ""
        if name in ("", "/", "(", ")", ","):
            raise _refuse(self._text)
        inner = _inside(schema, name)
        if inner is None:
            raise _refuse(name)
        if self._take("/"):
            below, inside = self._parse_path(inner)
            return name, {below: inside}
        if self._take("("):
            selected = dict(self.parse_list(inner))
            if not self._take(")"):
                raise _refuse(self._text)
            return name, selected
        return name, {}

    def _take(self, token: str) -> bool:
        if self.left and self.left[-1] == token:
            self.left.pop()
            return True
        return False


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What either selects of a field; an empty selection is all of it."""
    if not one or not other:
        return {}
    both = {name: _merge(one[name], other[name]) for name in one.keys() & other.keys()}
    return one | other | both


def _inside(schema: Schema, name: str) -> Schema | None:
    """The schema of a field; None when there is no such field."""
    if schema is ANY:
        return ANY
    if name == "*":
        return ANY if schema else None
    found: Schema | None = schema.get(name)
    return found


def _refuse(what: str) -> Refused:
    return Refused(400, "invalidParameter", f"Invalid field selection {what}")

"""A transfer manifest: a CSV file in Cloud Storage that names the objects to move, relative to the source's path."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime

from tools.emulators.sts.ends import EndError, Fetched, Listed, Source, read_object

MISSING = "missing"
FOLDER = "folder"
NO_FOLDERS = "Folder names without a file or object name are not supported in a manifest"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManifestSource:
    """Of another source just what a manifest names.

    missing   what becomes of a name that is not there. Assumed: "failed": an object that failed; or "ignored"
    folders   what becomes of a name that ends in '/'. Documented: that it is not supported
              (https://docs.cloud.google.com/storage-transfer/docs/manifest). Assumed: how that shows. "fail": the row fails;
              "refuse": the operation does; "take": it is an object like others
    """

    def __init__(
        self, source: Source, location: str, path: str, gcs: str, *, missing: str = "failed", folders: str = "fail"
    ) -> None:
        self._source, self._location, self._path, self._gcs = source, location, path, gcs
        self._missing, self._folders = missing, folders

    def check(self) -> None:
        self._source.check()

    def list(self, prefix: str) -> Iterator[Listed]:
        """Conditions still apply: a name that lies under no wanted prefix is left out."""
        for name in self._names():
            key = self._path + name
            if not key.startswith(prefix):
                continue
            if name.endswith("/") and self._folders == "refuse":
                raise EndError("INVALID_ARGUMENT", f"{NO_FOLDERS}: {name!r}", self._location)
            if name.endswith("/") and self._folders == "fail":
                yield Listed(key, 0, FOLDER, EPOCH)
                continue
            found = next((one for one in self._source.list(key) if one.key == key), None)
            if found is None and self._missing == "ignored":
                continue
            # What is not there is found out when its turn comes, and counted then.
            yield found or Listed(key, 0, MISSING, EPOCH)

    def fetch(self, listed: Listed) -> Fetched:
        if listed.etag == MISSING:
            raise EndError("NOT_FOUND", "the manifest names an object that is not there")
        if listed.etag == FOLDER:
            raise EndError("INVALID_ARGUMENT", NO_FOLDERS)
        return self._source.fetch(listed)

    def url(self, key: str) -> str:
        return self._source.url(key)

    def close(self) -> None:
        self._source.close()

    def _names(self) -> Iterator[str]:
        text = read_object(self._gcs, self._location, "manifest").decode("utf-8", "replace")
        for row in csv.reader(io.StringIO(text, newline="")):
            if row:
                yield row[0]

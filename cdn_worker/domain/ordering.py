"""What a listing must keep for a walk over it to be whole: ascending names, under its prefix, after where it was asked to begin.

S3 lists general purpose buckets in the order of the keys' UTF-8 bytes; directory buckets and some other servers do not, and then
ranges, cuts and comparisons with another listing would leave objects out without a word (S3, ListObjectsV2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import lt

DIRECTORY_BUCKET = "--x-s3"
"""How the names of directory buckets end (S3, directory bucket naming rules)."""


def bucket_fault(bucket: str) -> str | None:
    """Why nothing can be copied from an S3 bucket of this name, whatever is in it; None when nothing speaks against it."""
    if not bucket.endswith(DIRECTORY_BUCKET):
        return None
    return (
        f"s3://{bucket} is a directory bucket (S3 Express One Zone): it lists its keys in no order, so nobody could tell whether "
        "a copy is whole. Copy it into a general purpose bucket first, and from there"
    )


class Unordered(ValueError):
    """A listing that cannot be walked: the text names the server, the bucket and the keys."""


def refuse_unordered(names: Sequence[str], *, after: str, prefix: str, where: str) -> None:
    """Raise Unordered for a page of names that does not ascend from `after`, or is not under `prefix`.

    Code points order strings as UTF-8 bytes do. A page whose first and last name are under a prefix has none elsewhere.
    """
    if not names:
        return
    # Either may be empty: `after` is then below every name.
    if not (after < names[0] or (not after and not names[0])) or not all(map(lt, names, islice(names, 1, None))):
        before, name = _culprits(names, after)
        raise Unordered(
            f"{where} does not list in the order of its keys: {name!r} comes after {before!r}. Such a listing (a directory "
            "bucket, or a server that is not S3) cannot be walked without leaving objects out; nothing of it is believed"
        )
    if not (names[0].startswith(prefix) and names[-1].startswith(prefix)):
        name = names[-1] if names[0].startswith(prefix) else names[0]
        raise Unordered(f"{where} lists {name!r}, which is not under {prefix!r}: nothing of this listing is believed")


def _culprits(names: Sequence[str], after: str) -> tuple[str, str]:
    """The first two neighbours that are out of order."""
    before = after
    for name in names:
        if before >= name:
            return before, name
        before = name
    raise AssertionError("names that are in order")

"""Archived objects of S3: which cannot be read now, by what that is told, and how each kind is restored.

Two storage classes are archives; a listing tells them, and whether a restored copy is there. An Intelligent-Tiering object may be
in an archive tier, which no listing tells: S3 refuses to read it (403 InvalidObjectState), and its HEAD names the tier
(S3 API, InvalidObjectState, HeadObject, RestoreStatus; S3 user guide, restoring-objects).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from cdn_worker.domain.listing_page import RESTORED, RESTORING, Listed

GLACIER, DEEP_ARCHIVE, TIERING = "GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"
ARCHIVED = (GLACIER, DEEP_ARCHIVE)
"""Storage classes whose objects cannot be read before they are restored (S3, storage classes)."""
CODE = "archived"
"""The error of an object that cannot be read for that."""
_COMMAND = "aws s3api restore-object --bucket BUCKET --key KEY --restore-request"
FOR_DAYS = f"""{_COMMAND} '{{"Days":7,"GlacierJobParameters":{{"Tier":"Bulk"}}}}'"""
FOR_GOOD = f"{_COMMAND} '{{}}'"
"""In Intelligent-Tiering an object moves back to where it can be read, and stays there: no days are taken."""
_INVALID_STATE = b"<Code>InvalidObjectState</Code>"
_CLASS = re.compile(rb"<StorageClass>([A-Z_]{1,40})</StorageClass>")
_TIER = re.compile(rb"<AccessTier>([A-Z_]{1,40})</AccessTier>")


def unreadable(listed: Listed) -> str | None:
    """Why a listed object cannot be read now; None when nothing in the listing speaks against it."""
    storage_class = listed.storage_class
    if storage_class in ARCHIVED:
        return None if listed.restore == RESTORED else _told(storage_class, restoring=listed.restore == RESTORING)
    if storage_class == TIERING and listed.restore == RESTORING:
        return _told(TIERING, restoring=True)
    return None


def left_by_service(listed: Listed, included: Collection[str]) -> str | None:
    """Why the Storage Transfer Service passes a listed object over, silently; None when it does not.

    included: the storage classes that the transfer job names; none: it names none

    DEEP_ARCHIVE is transferred only when restored; GLACIER is skipped also when restored, unless it is named, and then it must be
    restored too (Storage Transfer Service, filtering-by-storage-class).
    """
    if listed.storage_class == GLACIER and GLACIER not in included:
        return (
            f"the transfer service skips {GLACIER}, restored or not: restore it ({FOR_DAYS}), and send the prefix by route cdn, "
            "or name the class in --include-storage-classes"
        )
    return unreadable(listed)


def refused_as_archived(body: bytes) -> str | None:
    """What S3's refusal to read an object says of its archive; None when it was refused for something else."""
    if _INVALID_STATE not in body:
        return None
    storage_class, tier = _CLASS.search(body), _TIER.search(body)
    if tier is not None:
        return _told(f"{TIERING}, {tier[1].decode()}")
    return _told(TIERING if storage_class is None else storage_class[1].decode())


def archived_by_head(headers: Mapping[str, str]) -> str | None:
    """Why an object cannot be read now, by the answer to a HEAD of it (names in lower case); None when it can."""
    restoring = 'ongoing-request="true"' in headers.get("x-amz-restore", "")
    tier = headers.get("x-amz-archive-status")
    if tier:
        return _told(f"{TIERING}, {tier[:40]}", restoring=restoring)
    storage_class = headers.get("x-amz-storage-class", "")
    if storage_class in ARCHIVED and 'ongoing-request="false"' not in headers.get("x-amz-restore", ""):
        return _told(storage_class, restoring=restoring)
    return None


def _told(kind: str, *, restoring: bool = False) -> str:
    if restoring:
        return f"it is archived ({kind}) and is being restored: run again when that is over"
    return f"it is archived ({kind}): restore it ({FOR_GOOD if kind.startswith(TIERING) else FOR_DAYS}), and run again"

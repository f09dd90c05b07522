"""Cloud Resource Manager over REST: what the caller may do in a project, and who was given which role there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import requests

from sts_manager.routes.sts.transfer_log import session_at

RESOURCE_MANAGER = "https://cloudresourcemanager.googleapis.com"
RESOURCE_MANAGER_EMULATOR = "CLOUDRESOURCEMANAGER_EMULATOR_HOST"
POLICY_VERSION = 3
"""The version that shows conditions (IAM, policies)."""
DEADLINE_S = 30.0


class Unanswered(Exception):
    """Cloud Resource Manager did not say. `status`: of its HTTP answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Cloud Resource Manager answered {status}")
        self.status = status


def ask_permissions(project: str, permissions: Collection[str]) -> set[str]:
    """Of permissions, those that the caller has in a project. Raises Unanswered."""
    return set(_post(project, "testIamPermissions", {"permissions": list(permissions)}).get("permissions", ()))


def read_roles(project: str, member: str) -> set[str]:
    """The roles that a project's own policy gives a member without a condition. Raises Unanswered.

    project: its id or its number. Needs resourcemanager.projects.getIamPolicy.
    """
    policy = _post(project, "getIamPolicy", {"options": {"requestedPolicyVersion": POLICY_VERSION}})
    return roles_of(policy.get("bindings", ()), member)


def roles_of(bindings: Sequence[Mapping[str, Any]], member: str) -> set[str]:
    """The roles of a policy's bindings that a member has at any time; one under a condition is not taken for granted."""
    return {one["role"] for one in bindings if member in one.get("members", ()) and not one.get("condition")}


def _post(project: str, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    base, session = session_at(RESOURCE_MANAGER_EMULATOR, RESOURCE_MANAGER)
    with session:
        answer = session.post(f"{base}/v1/projects/{project}:{verb}", json=body, timeout=DEADLINE_S)
    if answer.status_code != requests.codes.ok:
        raise Unanswered(answer.status_code)
    found: dict[str, Any] = answer.json()
    return found

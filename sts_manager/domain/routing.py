"""Which route prefixes travel when their row names none: one rule, and its reasons in words."""

from __future__ import annotations

from dataclasses import dataclass

from sts_manager.domain.model import Route

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Choice:
    """A route, and why."""

    route: Route
    why: str


def choose(asked: str, *, from_s3: bool, cdn_url: str) -> Choice:
    """asked: `--route`; from_s3: whether the source is S3; cdn_url: the distribution, empty for none."""
    if asked != AUTO:
        return Choice(Route(asked), f"--route {asked} says so")
    if not from_s3:
        return Choice(Route.STS_GCS, "the source is in Cloud Storage, which only the Storage Transfer Service reads")
    if cdn_url:
        return Choice(Route.CDN, f"a distribution is given (--cdn-url {cdn_url}), and its egress costs less than S3's")
    return Choice(Route.STS_S3, "no distribution is given (--cdn-url), so the Storage Transfer Service reads S3 itself")

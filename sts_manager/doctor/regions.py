"""The AWS regions that the Storage Transfer Service says it reads from."""

from __future__ import annotations

AS_ON = "2026-04-08"
"""When the lists were read: Storage Transfer Service, "Transfer from Amazon S3 to Cloud Storage", supported regions
(docs.cloud.google.com/storage-transfer/docs/create-transfers/agentless/s3)."""

PRIVATE_NETWORK = frozenset(
    {
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-south-2",
        "ap-southeast-1",
        "ca-central-1",
        "ca-west-1",
        "eu-central-1",
        "eu-central-2",
        "eu-north-1",
        "eu-south-1",
        "eu-south-2",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    }
)
"""Those of the managed private network."""

SUPPORTED = PRIVATE_NETWORK | frozenset(
    {
        "af-south-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "sa-east-1",
    }
)
"""All of them."""

DOUBTFUL = frozenset({"us-gov-east-1", "us-gov-west-1"})
"""Another page of the service has these, too ("Configure access to a source: Amazon S3"): the two do not agree."""


def region_fault(region: str, *, private_network: bool) -> tuple[str, str] | None:
    """(what the lists say against transfers from a region, what to do); None: nothing."""
    if region in DOUBTFUL:
        told = f"of the service's two lists (as on {AS_ON}) only one has {region}"
        return told, "transfer one small prefix first"
    if region not in SUPPORTED:
        told = f"the service does not list {region} among the AWS regions that it reads (as on {AS_ON})"
        return told, "transfer one small prefix first; else --route cdn reads any region"
    if private_network and region not in PRIVATE_NETWORK:
        told = f"the service lists {region}, but not for its managed private network (as on {AS_ON})"
        return told, "leave --s3-managed-private-network out"
    return None

"""What a probe observed of the real services and the program heeds, where it has a choice (ADR 0022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

GLOBAL = "global"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAnswers:
    """The answers of the last probes of one project and destination.

    probe        the id of the last one
    destination  gs://bucket/path
    answers      name → value, as the observations give them; an unknown name is kept and heeded by nobody
    """

    probe: str
    at: datetime
    project: str
    destination: str
    answers: Mapping[str, str] = field(default_factory=dict)

    def renew(self, newer: Self) -> Self:
        """A later probe's answers over these. What it did not look at stays, unless it was about another place."""
        if (self.project, self.destination) != (newer.project, newer.destination):
            return newer
        return replace(newer, answers={**self.answers, **newer.answers})

    def transfer_succeeded(self, project: str, bucket: str) -> bool:
        """Whether the transfer service has shown that it may write there, whatever a bucket's policy tells."""
        known = self.answers.get("transfer"), self.answers.get("transfer_to"), self.project
        return known == ("succeeded", bucket, project)

    @property
    def transfer_replaced(self) -> bool:
        """Whether that transfer also replaced an object, which takes storage.objects.delete."""
        return self.answers.get("transfer_replaced") == "yes"

    def location(self, wanted: str) -> str:
        """Where Cloud Monitoring takes the series of a daemon: as wanted, or `global` where that was refused."""
        refused = self.answers.get("monitoring_location") == "refused" and self.answers.get("monitoring_location_of") == wanted
        return GLOBAL if refused else wanted

    @property
    def names_unusable(self) -> bool:
        """Whether the service calls objects of a URL list in a way that cannot be undone."""
        return self.answers.get("url_list_names") == "unknown"

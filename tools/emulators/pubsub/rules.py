"""What a topic and a subscription may be: the service's own limits, and what the suite does not model and so refuses.

A setting that were taken and then ignored would rehearse something else than what runs later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from google.pubsub_v1 import types

from tools.emulators.pubsub.filters import parse_filter
from tools.emulators.rpc import Refused, invalid

DEADLINES = (10, 600)
ATTEMPTS = (5, 100)
BACKOFFS = (timedelta(0), timedelta(seconds=600))
BACKOFF_DEFAULTS = (timedelta(seconds=10), timedelta(seconds=600))
RETENTIONS = (timedelta(minutes=10), timedelta(days=31))
EXPIRY_MIN = timedelta(days=1)
_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", re.IGNORECASE)
_TOPIC_SETTINGS = (
    "message_storage_policy",
    "kms_key_name",
    "schema_settings",
    "ingestion_data_source_settings",
    "message_transforms",
)
_SUBSCRIPTION_SETTINGS = (
    "bigquery_config",
    "cloud_storage_config",
    "bigtable_config",
    "retain_acked_messages",
    "enable_message_ordering",
    "detached",
    "enable_exactly_once_delivery",
    "message_transforms",
)


def check_name(kind: str, name: str, knows_project: Callable[[str], bool]) -> str:
    """Raises Refused for anything but projects/P/<kind>/ID of a project that is known."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != kind or not _ID.fullmatch(parts[3]):
        raise invalid(f"Invalid resource name given (name={name}). Refer to the resource name rules of {kind}.")
    if not knows_project(parts[1]):
        raise Refused(grpc.StatusCode.NOT_FOUND, f"Requested project not found or user does not have access to it ({parts[1]}).")
    return name


def check_topic(topic: types.Topic) -> None:
    _refuse_unmodelled(topic, _TOPIC_SETTINGS)
    _check_retention(topic)


def check_subscription(config: types.Subscription) -> None:
    """Check a new subscription's settings, and fill in those that have a default."""
    _refuse_unmodelled(config, _SUBSCRIPTION_SETTINGS)
    if types.PushConfig.pb(config.push_config).ByteSize():
        raise _unmodelled("push_config")
    config.ack_deadline_seconds = config.ack_deadline_seconds or DEADLINES[0]
    if not DEADLINES[0] <= config.ack_deadline_seconds <= DEADLINES[1]:
        raise invalid(f"Invalid ack deadline given: {config.ack_deadline_seconds}. It must be between 10 and 600 seconds.")
    parse_filter(config.filter)
    _check_retention(config)
    if types.ExpirationPolicy.pb(config.expiration_policy).HasField("ttl") and config.expiration_policy.ttl < EXPIRY_MIN:
        raise invalid(f"expiration_policy.ttl must be at least 1 day, and is {config.expiration_policy.ttl}.")
    _check_dead_letters(config)
    if "retry_policy" in config:
        _check_backoffs(config.retry_policy)


def _check_dead_letters(config: types.Subscription) -> None:
    policy = config.dead_letter_policy
    if "dead_letter_policy" not in config or not (policy.dead_letter_topic or policy.max_delivery_attempts):
        return
    if not policy.dead_letter_topic:
        raise invalid("dead_letter_policy names no dead_letter_topic.")
    policy.max_delivery_attempts = policy.max_delivery_attempts or ATTEMPTS[0]
    if not ATTEMPTS[0] <= policy.max_delivery_attempts <= ATTEMPTS[1]:
        raise invalid(f"max_delivery_attempts must be between 5 and 100, and is {policy.max_delivery_attempts}.")


def _check_backoffs(policy: types.RetryPolicy) -> None:
    given = types.RetryPolicy.pb(policy)
    for name, default in zip(("minimum_backoff", "maximum_backoff"), BACKOFF_DEFAULTS, strict=True):
        if not given.HasField(name):
            setattr(policy, name, default)
        if not BACKOFFS[0] <= getattr(policy, name) <= BACKOFFS[1]:
            raise invalid(f"retry_policy.{name} must be between 0 and 600 seconds, and is {getattr(policy, name)}.")
    if policy.minimum_backoff > policy.maximum_backoff:
        raise invalid("retry_policy.minimum_backoff is longer than its maximum_backoff.")


def _check_retention(resource: Any) -> None:
    if "message_retention_duration" not in resource:
        return
    if not RETENTIONS[0] <= resource.message_retention_duration <= RETENTIONS[1]:
        raise invalid(
            f"message_retention_duration must be between 10 minutes and 31 days, and is {resource.message_retention_duration}."
        )


def _refuse_unmodelled(resource: Any, names: Iterable[str]) -> None:
    for name in names:
        if name in resource:
            raise _unmodelled(name)


def _unmodelled(name: str) -> Refused:
    return Refused(
        grpc.StatusCode.UNIMPLEMENTED, f"the emulator suite does not model {name}, and will not seem to: leave it out."
    )

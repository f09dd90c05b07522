"""Topics, subscriptions, messages and their leases, with Pub/Sub's own limits and refusals."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
from google.pubsub_v1 import types

from tools.emulators.ledger import Ledger
from tools.emulators.pubsub.filters import parse_filter
from tools.emulators.pubsub.rules import DEADLINES, check_name, check_subscription, check_topic
from tools.emulators.rpc import Refused, invalid

MESSAGE_BYTES_MAX = 10_000_000
REQUEST_BYTES_MAX = 10_000_000
MESSAGES_MAX = 1000
ATTRIBUTES_MAX = 100
ATTRIBUTE_KEY_BYTES, ATTRIBUTE_VALUE_BYTES = 256, 1024
ORDERING_KEY_BYTES = 1024
ACK_REQUEST_BYTES_MAX = 524_288


@dataclass(slots=True)
class Message:
    """One message of one subscription. attempts: deliveries so far; due: not before this time of the broker's clock."""

    message: types.PubsubMessage
    attempts: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Subscription:
    """What waits, and what is leased, by ack id: the message and when its lease ends."""

    config: types.Subscription
    waiting: deque[Message] = field(default_factory=deque)
    leased: dict[str, tuple[Message, float]] = field(default_factory=dict)


class Broker:
    """Topics and subscriptions of all projects; safe to use from any thread.

    Settings of the ledger make it repeat, shuffle and delay.
    now   (seconds) the clock by which leases end and messages are due
    """

    def __init__(self, ledger: Ledger, now: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self.now = ledger, now
        self.topics: dict[str, types.Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._ids = count(1)
        self._random = random.Random(7)
        self.changed = threading.Condition()

    def reset(self) -> None:
        with self.changed:
            self.topics.clear()
            self.subscriptions.clear()
            self._random = random.Random(7)

    # Topics

    def create_topic(self, topic: types.Topic) -> types.Topic:
        check_name("topics", topic.name, self._ledger.knows_project)
        check_topic(topic)
        with self.changed:
            if topic.name in self.topics:
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={topic.name}).")
            self.topics[topic.name] = topic
        return topic

    def get_topic(self, request: types.GetTopicRequest) -> types.Topic:
        with self.changed:
            return self._topic(request.topic)

    def delete_topic(self, request: types.DeleteTopicRequest) -> None:
        with self.changed:
            del self.topics[self._topic(request.topic).name]
            for one in self.subscriptions.values():
                if one.config.topic == request.topic:
                    one.config.topic = "_deleted-topic_"

    def _topic(self, name: str) -> types.Topic:
        check_name("topics", name, self._ledger.knows_project)
        if name not in self.topics:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return self.topics[name]

    def publish(self, request: types.PublishRequest) -> types.PublishResponse:
        if not request.messages:
            raise invalid("The value for message_count is too small. You passed 0 in the request, but the minimum value is 1.")
        if len(request.messages) > MESSAGES_MAX:
            raise invalid(
                f"The value for message_count is too large. You passed {len(request.messages)} in the request, but the maximum "
                f"value is {MESSAGES_MAX}."
            )
        size = types.PublishRequest.pb(request).ByteSize()
        if size > REQUEST_BYTES_MAX:
            raise invalid(f"Request payload size exceeds the limit: {REQUEST_BYTES_MAX} bytes (it is {size}).")
        for message in request.messages:
            _check(message)
        with self.changed:
            self._topic(request.topic)
            ids = [self._admit(request.topic, message) for message in request.messages]
            self.changed.notify_all()
        return types.PublishResponse(message_ids=ids)

    def _admit(self, topic: str, message: types.PubsubMessage) -> str:
        attributes = dict(message.attributes)
        made = types.PubsubMessage(data=message.data, attributes=attributes, ordering_key=message.ordering_key)
        made.message_id = str(next(self._ids))
        now = self.now()
        for one in self.subscriptions.values():
            if one.config.topic != topic or not parse_filter(one.config.filter)(attributes):
                continue  # what a filter leaves out counts as acknowledged
            copies = 2 if self._random.random() < self._ledger.setting("pubsub.duplicates") else 1
            for _ in range(copies):
                delay = self._random.random() * self._ledger.setting("pubsub.delay_seconds")
                one.waiting.append(Message(made, due=now + delay))
        return made.message_id

    # Subscriptions

    def create_subscription(self, config: types.Subscription) -> types.Subscription:
        check_name("subscriptions", config.name, self._ledger.knows_project)
        check_subscription(config)
        policy = config.dead_letter_policy
        with self.changed:
            self._topic(config.topic)
            if policy.dead_letter_topic:
                self._topic(policy.dead_letter_topic)
            if config.name in self.subscriptions:
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={config.name}).")
            self.subscriptions[config.name] = Subscription(config)
        return config

    def get_subscription(self, request: types.GetSubscriptionRequest) -> types.Subscription:
        with self.changed:
            return self._subscription(request.subscription).config

    def delete_subscription(self, request: types.DeleteSubscriptionRequest) -> None:
        with self.changed:
            del self.subscriptions[self._subscription(request.subscription).config.name]

    def _subscription(self, name: str) -> Subscription:
        check_name("subscriptions", name, self._ledger.knows_project)
        if name not in self.subscriptions:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return self.subscriptions[name]

    def pull(self, name: str, most: int, wait_s: float, deadline_s: float = 0.0) -> list[types.ReceivedMessage]:
        """At most `most` messages; waits that long for the first. deadline_s: of their leases, else the subscription's."""
        if most < 1:
            raise invalid(f"Invalid max_messages given: {most}. It must be at least 1.")
        until = time.monotonic() + wait_s
        with self.changed:
            while True:
                subscription = self._subscription(name)
                found = self._delivered(subscription, min(most, MESSAGES_MAX), deadline_s)
                left = until - time.monotonic()
                if found or left <= 0:
                    return found
                self.changed.wait(min(left, 0.05))

    def _delivered(self, subscription: Subscription, most: int, deadline_s: float) -> list[types.ReceivedMessage]:
        now = self.now()
        self._end_leases(subscription, now)
        if self._ledger.setting("pubsub.reorder") and len(subscription.waiting) > 1:
            self._random.shuffle(subscription.waiting)
        policy = subscription.config.dead_letter_policy
        lease_s = deadline_s or subscription.config.ack_deadline_seconds
        found: list[types.ReceivedMessage] = []
        for _ in range(len(subscription.waiting)):
            if len(found) == most:
                break
            one = subscription.waiting.popleft()
            if one.due > now:
                subscription.waiting.append(one)
                continue
            one.attempts += 1
            ack_id = f"{subscription.config.name.rpartition('/')[2]}-{next(self._ids)}"
            subscription.leased[ack_id] = (one, now + lease_s)
            attempt = one.attempts if policy.dead_letter_topic else 0
            found.append(types.ReceivedMessage(ack_id=ack_id, message=one.message, delivery_attempt=attempt))
        return found

    def _end_leases(self, subscription: Subscription, now: float) -> None:
        for ack_id in [one for one, (_, until) in subscription.leased.items() if until <= now]:
            self._again(subscription, subscription.leased.pop(ack_id)[0])

    def _again(self, subscription: Subscription, one: Message) -> None:
        """A lease ended in vain: the message comes again, or goes to the dead-letter topic."""
        policy = subscription.config.dead_letter_policy
        if policy.dead_letter_topic in self.topics and one.attempts >= policy.max_delivery_attempts:
            dead = types.PubsubMessage(data=one.message.data, attributes=dict(one.message.attributes))
            dead.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(one.attempts)
            dead.attributes["CloudPubSubDeadLetterSourceSubscription"] = subscription.config.name.rpartition("/")[2]
            dead.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = subscription.config.name.split("/")[1]
            self._admit(policy.dead_letter_topic, dead)
        else:
            one.due = self.now() + _backoff_s(subscription.config, one.attempts)
            subscription.waiting.append(one)

    def acknowledge(self, name: str, ack_ids: list[str]) -> None:
        """An ack id whose lease has ended is let pass, and acknowledges nothing."""
        with self.changed:
            subscription = self._subscription(name)
            self._end_leases(subscription, self.now())
            for ack_id in ack_ids:
                subscription.leased.pop(ack_id, None)

    def modify(self, name: str, ack_ids: list[str], seconds: int) -> None:
        """Extend leases; 0 seconds: give the messages back at once."""
        if not 0 <= seconds <= DEADLINES[1]:
            raise invalid(f"Invalid ack deadline given: {seconds}. It must be between 0 and 600 seconds.")
        with self.changed:
            subscription = self._subscription(name)
            now = self.now()
            self._end_leases(subscription, now)
            for ack_id in ack_ids:
                held = subscription.leased.pop(ack_id, None)
                if held is not None and seconds:
                    subscription.leased[ack_id] = (held[0], now + seconds)
                elif held is not None:
                    self._again(subscription, held[0])
            self.changed.notify_all()

    def end_leases(self) -> None:
        """As if the time of every lease were over."""
        with self.changed:
            for subscription in self.subscriptions.values():
                self._end_leases(subscription, float("inf"))
            self.changed.notify_all()


def _backoff_s(config: types.Subscription, deliveries: int) -> float:
    """How long a message is held back after so many deliveries in vain: exponential between the retry policy's bounds; without
    a policy not at all (RetryPolicy's and Subscription's docstrings; that it doubles each time is assumed).
    """
    if "retry_policy" not in config:
        return 0.0
    least, most = (limit.total_seconds() for limit in (config.retry_policy.minimum_backoff, config.retry_policy.maximum_backoff))
    return float(min(most, least * 2 ** min(deliveries - 1, 30)))


def _check(message: types.PubsubMessage) -> None:
    if not message.data and not message.attributes:
        raise invalid("One or more messages in the publish request is empty. Each message must contain data or attributes.")
    size = types.PubsubMessage.pb(message).ByteSize()
    if size > MESSAGE_BYTES_MAX:
        raise invalid(f"The value for message size is too large: {size}, and {MESSAGE_BYTES_MAX} are the most.")
    if len(message.ordering_key.encode()) > ORDERING_KEY_BYTES:
        raise invalid(f"The ordering key is longer than {ORDERING_KEY_BYTES} bytes.")
    attributes: Any = message.attributes
    if len(attributes) > ATTRIBUTES_MAX:
        raise invalid(f"A message has {len(attributes)} attributes, and {ATTRIBUTES_MAX} are the most.")
    for key, value in attributes.items():
        if not key or len(key.encode()) > ATTRIBUTE_KEY_BYTES or key.startswith("goog"):
            raise invalid(f"Invalid attribute key: {key[:80]!r}.")
        if len(value.encode()) > ATTRIBUTE_VALUE_BYTES:
            raise invalid(f"The value of attribute {key!r} is longer than {ATTRIBUTE_VALUE_BYTES} bytes.")

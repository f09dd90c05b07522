"""Pub/Sub of the stage, asked with the official clients: as strict as the service, and as unreliable on command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from cdn_worker.domain.errors import BadInput
from cdn_worker.queues.places import open_queues, prepare_queues
from tests.stages import wait_for
from tools.emulators.stage import PROJECT, Stage

TOPIC, DEAD = f"projects/{PROJECT}/topics/work", f"projects/{PROJECT}/topics/dead"
SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/work"


class Clients:
    def __init__(self, address: str) -> None:
        self._channels = [grpc.insecure_channel(address) for _ in range(2)]
        self.publisher: Any = PublisherClient(transport=PublisherGrpcTransport(channel=self._channels[0]))
        self.subscriber: Any = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channels[1]))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def pulled(self, most: int = 10) -> list[Any]:
        return list(self.subscriber.pull(subscription=SUBSCRIPTION, max_messages=most, timeout=20).received_messages)


@contextmanager
def connected(stage: Stage) -> Iterator[Clients]:
    stage.ledger.change({"pubsub.pull_seconds": 0.2})
    made = Clients(stage.environment["PUBSUB_EMULATOR_HOST"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def clients(stage: Stage) -> Iterator[Clients]:
    with connected(stage) as made:
        made.publisher.create_topic(name=TOPIC)
        made.publisher.create_topic(name=DEAD)
        policy = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=5)
        made.subscriber.create_subscription(
            # a deadline longer than any test: on a machine that stands still for 10 s (the default) messages come again
            types.Subscription(name=SUBSCRIPTION, topic=TOPIC, dead_letter_policy=policy, ack_deadline_seconds=600)
        )
        yield made


@pytest.mark.parametrize(
    "name", ["x", f"projects/{PROJECT}/topics/a", f"projects/{PROJECT}/topics/goog-x", f"projects/{PROJECT}/topics/1abc"]
)
def test_names_follow_the_rules(stage: Stage, name: str) -> None:
    with connected(stage) as clients, pytest.raises(exceptions.InvalidArgument, match="Invalid resource name"):
        clients.publisher.create_topic(name=name)


def test_what_is_there_is_not_made_again_and_what_is_not_there_is_named(clients: Clients) -> None:
    with pytest.raises(exceptions.AlreadyExists):
        clients.publisher.create_topic(name=TOPIC)
    with pytest.raises(exceptions.NotFound, match="resource=nowhere"):
        clients.publisher.publish(topic=f"projects/{PROJECT}/topics/nowhere", messages=[types.PubsubMessage(data=b"x")])
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.pull(subscription=f"projects/{PROJECT}/subscriptions/nowhere", max_messages=1)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "minimum value is 1"),
        ([types.PubsubMessage()], "must contain data or attributes"),
        ([types.PubsubMessage(data=b"x")] * 1001, "maximum value is 1000"),
        ([types.PubsubMessage(data=b"x" * 6_000_000)] * 2, "exceeds the limit"),
        ([types.PubsubMessage(attributes={"k": "v" * 1025})], "longer than 1024"),
        ([types.PubsubMessage(attributes={"googx": "v"})], "Invalid attribute key"),
    ],
)
def test_what_is_published_has_its_limits(clients: Clients, messages: list[Any], told: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=told):
        clients.publisher.publish(topic=TOPIC, messages=messages)


@pytest.mark.parametrize(
    ("deadline", "attempts", "told"), [(9, 5, "between 10 and 600"), (601, 5, "between 10 and 600"), (10, 4, "between 5 and 100")]
)
def test_subscriptions_have_their_limits(clients: Clients, deadline: int, attempts: int, told: str) -> None:
    policy = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=attempts)
    wanted = types.Subscription(name=f"{SUBSCRIPTION}-2", topic=TOPIC, ack_deadline_seconds=deadline, dead_letter_policy=policy)
    with pytest.raises(exceptions.InvalidArgument, match=told):
        clients.subscriber.create_subscription(wanted)


def test_a_dead_letter_says_how_often_it_was_delivered(clients: Clients, stage: Stage) -> None:
    dead = f"projects/{PROJECT}/subscriptions/dead"
    clients.subscriber.create_subscription(types.Subscription(name=dead, topic=DEAD))
    clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"poison")])
    attempts = []
    for _ in range(5):
        (one,) = clients.pulled()
        attempts.append(one.delivery_attempt)
        clients.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], ack_deadline_seconds=0)
    assert attempts == [1, 2, 3, 4, 5]
    assert clients.pulled() == []
    (buried,) = clients.subscriber.pull(subscription=dead, max_messages=5, timeout=20).received_messages
    assert buried.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"


def test_a_streaming_pull_delivers_acknowledges_and_extends(clients: Clients, stage: Stage) -> None:
    clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=str(index).encode()) for index in range(3)])
    acks: list[str] = []

    def requests() -> Iterator[Any]:
        yield types.StreamingPullRequest(subscription=SUBSCRIPTION, stream_ack_deadline_seconds=10)
        wait_for(lambda: len(acks) == 3)
        yield types.StreamingPullRequest(ack_ids=acks[:2], modify_deadline_ack_ids=acks[2:], modify_deadline_seconds=[0])
        wait_for(lambda: len(acks) == 4)

    stream = clients.subscriber.streaming_pull(requests=requests())
    for response in stream:
        acks += [one.ack_id for one in response.received_messages]
        if len(acks) == 4:
            break
    stream.cancel()
    assert len(set(acks)) == 4, "the one that was given back came again"


def test_messages_come_twice_and_late_on_command(clients: Clients, stage: Stage) -> None:
    stage.ledger.change({"pubsub.duplicates": 1.0, "pubsub.reorder": True, "pubsub.delay_seconds": 0.1})
    clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=str(index).encode()) for index in range(20)])
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(bytes(one.message.data) for one in clients.pulled(100))
        return len(found) >= 40

    wait_for(enough)
    assert sorted(found) == sorted(str(index).encode() for index in range(20) for _ in range(2))
    assert found != sorted(found), "in no order"


def test_faults_and_permissions_are_the_stages_as_everywhere(clients: Clients, stage: Stage) -> None:
    stage.ledger.add_rule({"service": "pubsub", "method": "Publish", "applied": True})
    with pytest.raises(exceptions.ServiceUnavailable, match="answer was lost"):
        clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"x")], retry=None)
    assert len(clients.pulled()) == 1, "it was published all the same"
    stage.ledger.change({"iam.denied": ["pubsub.topics.publish"]})
    with pytest.raises(exceptions.PermissionDenied, match=r"pubsub\.topics\.publish"):
        clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"x")])


def test_a_queue_without_dead_letters_is_warned_about_and_one_that_is_missing_is_named(clients: Clients, stage: Stage) -> None:
    address = f"pubsub://{PROJECT}/pool?board=gs://control/board.json"
    with pytest.raises(BadInput, match="prepare-queue"):
        open_queues(address)
    assert len(prepare_queues(address, lease_s=30)) == 10
    assert prepare_queues(address) == []
    queues = open_queues(address)
    assert (queues.lease_s, queues.warnings) == (30.0, ())
    queues.close()
    name = f"projects/{PROJECT}/subscriptions/pool-copies"
    clients.subscriber.delete_subscription(subscription=name)
    clients.subscriber.create_subscription(types.Subscription(name=name, topic=f"projects/{PROJECT}/topics/pool-copies"))
    queues = open_queues(address)
    (warning,) = queues.warnings
    assert "pool-copies has no dead-letter policy" in warning
    queues.close()
    with pytest.raises(BadInput, match="10 to 600"):
        prepare_queues(address, lease_s=5)

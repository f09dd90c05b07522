"""Pub/Sub of the stage, asked with the official clients: as strict as the service, and as unreliable on command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from cdn_worker.domain.errors import BadInput
from cdn_worker.queues.factory import open_queues, prepare_queues
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


# Filters, backoff, and what is not modelled

OTHER = f"projects/{PROJECT}/subscriptions/other"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "abcd"),
        ("attributes:colour", "abc"),
        ('attributes.colour = "red"', "a"),
        ('attributes.colour != "red"', "bcd"),
        ('hasPrefix(attributes.colour, "re")', "ac"),
        ("NOT attributes:colour", "d"),
        ("-attributes:colour", "d"),
        ('attributes:size AND attributes.colour="blue"', "b"),
        ('attributes.colour = "red" OR attributes.colour = "blue" OR attributes.colour = "none"', "ab"),
        ('attributes:colour AND NOT (attributes.colour = "red" OR attributes:size)', "c"),
        ('attributes."a key/\\"x\\"" = "\\u00fc\\x2a\\101"', "c"),
        ('attributes.is-even = "x"', "b"),
    ],
)
def test_a_filter_lets_through_what_it_matches(clients: Clients, text: str, wanted: str) -> None:
    clients.subscriber.create_subscription(types.Subscription(name=OTHER, topic=TOPIC, filter=text))
    attributes: dict[bytes, dict[str, str]] = {
        b"a": {"colour": "red"},
        b"b": {"colour": "blue", "size": "1", "is-even": "x"},
        b"c": {"colour": "reddish", 'a key/"x"': "ü*A"},
        b"d": {"Colour": "red"},
    }
    messages = [types.PubsubMessage(data=data, attributes=given) for data, given in attributes.items()]
    clients.publisher.publish(topic=TOPIC, messages=messages)
    pulled = clients.subscriber.pull(subscription=OTHER, max_messages=10, timeout=20).received_messages
    assert "".join(sorted(one.message.data.decode() for one in pulled)) == wanted
    assert clients.subscriber.get_subscription(subscription=OTHER).filter == text
    assert len(clients.pulled()) == 4, "another subscription's filter is its own"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("attributes:a AND attributes:b OR attributes:c", "combined only with parentheses"),
        ("attributes.a = red", "a string in double quotes was expected"),
        ("attributes.a = 'red'", "unexpected"),
        ('data = "x"', "'attributes' was expected"),
        ("attributes:a and attributes:b", "unexpected 'and'"),
        ('hasSuffix(attributes.a, "x")', "'attributes' was expected"),
        ("(attributes:a", "was expected, not 'the end'"),
        ("NOT", "'attributes' was expected, not 'the end'"),
        ("attributes:AND", "a key was expected"),
        (f'attributes.a = "{"x" * 256}"', "256 are the most"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(clients: Clients, text: str, told: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=told):
        clients.subscriber.create_subscription(types.Subscription(name=OTHER, topic=TOPIC, filter=text))


def test_a_retry_policy_holds_back_longer_each_time(clients: Clients, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.pubsub is not None
    clock = [1000.0]
    monkeypatch.setattr(stage.pubsub.broker, "now", lambda: clock[0])
    policy = types.RetryPolicy(
        minimum_backoff=duration_pb2.Duration(seconds=10), maximum_backoff=duration_pb2.Duration(seconds=35)
    )
    wanted = types.Subscription(name=OTHER, topic=TOPIC, retry_policy=policy, ack_deadline_seconds=60)
    clients.subscriber.create_subscription(wanted)
    clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"x")])

    def pull() -> list[str]:
        return [one.ack_id for one in clients.subscriber.pull(subscription=OTHER, max_messages=1, timeout=20).received_messages]

    for backoff_s in (10, 20, 35, 35):
        clients.subscriber.modify_ack_deadline(subscription=OTHER, ack_ids=pull(), ack_deadline_seconds=0)
        clock[0] += backoff_s - 1
        assert pull() == [], f"it is held back for {backoff_s} s"
        clock[0] += 1
    assert len(pull()) == 1
    clock[0] += 60
    assert pull() == [], "and a lease that ended counts as one that was given back"
    clock[0] += 35
    assert len(pull()) == 1


def test_a_retry_policy_has_defaults_and_limits(clients: Clients) -> None:
    made = clients.subscriber.create_subscription(types.Subscription(name=OTHER, topic=TOPIC, retry_policy=types.RetryPolicy()))
    assert (made.retry_policy.minimum_backoff.seconds, made.retry_policy.maximum_backoff.seconds) == (10, 600)
    for least, most, told in ((0, 601, "between 0 and 600"), (20, 10, "longer than its maximum")):
        policy = types.RetryPolicy(
            minimum_backoff=duration_pb2.Duration(seconds=least), maximum_backoff=duration_pb2.Duration(seconds=most)
        )
        with pytest.raises(exceptions.InvalidArgument, match=told):
            clients.subscriber.create_subscription(types.Subscription(name=f"{OTHER}2", topic=TOPIC, retry_policy=policy))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"enable_message_ordering": True}, "enable_message_ordering"),
        ({"enable_exactly_once_delivery": True}, "enable_exactly_once_delivery"),
        ({"push_config": types.PushConfig(push_endpoint="https://example.com/")}, "push_config"),
        ({"bigquery_config": types.BigQueryConfig(table="a.b.c")}, "bigquery_config"),
        ({"cloud_storage_config": types.CloudStorageConfig(bucket="b")}, "cloud_storage_config"),
        ({"retain_acked_messages": True}, "retain_acked_messages"),
        ({"detached": True}, "detached"),
    ],
)
def test_what_a_subscription_would_be_without_is_refused(clients: Clients, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match=told):
        clients.subscriber.create_subscription(types.Subscription(name=OTHER, topic=TOPIC, **settings))
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.get_subscription(subscription=OTHER)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"message_retention_duration": duration_pb2.Duration(seconds=599)}, "between 10 minutes and 31 days"),
        ({"expiration_policy": types.ExpirationPolicy(ttl=duration_pb2.Duration(seconds=3600))}, "at least 1 day"),
        ({"dead_letter_policy": types.DeadLetterPolicy(max_delivery_attempts=5)}, "names no dead_letter_topic"),
    ],
)
def test_settings_that_are_no_subscriptions_are_refused(clients: Clients, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=told):
        clients.subscriber.create_subscription(types.Subscription(name=OTHER, topic=TOPIC, **settings))


def test_what_a_topic_would_be_without_is_refused(clients: Clients) -> None:
    for settings in ({"kms_key_name": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}, {"schema_settings": {"schema": "s"}}):
        with pytest.raises(exceptions.MethodNotImplemented, match=next(iter(settings))):
            clients.publisher.create_topic(request=types.Topic(name=f"{TOPIC}2", **settings))


def test_an_ordering_key_comes_with_its_message(clients: Clients) -> None:
    clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"x", ordering_key="k")])
    assert [one.message.ordering_key for one in clients.pulled()] == ["k"]
    with pytest.raises(exceptions.InvalidArgument, match="ordering key"):
        clients.publisher.publish(topic=TOPIC, messages=[types.PubsubMessage(data=b"x", ordering_key="k" * 1025)])

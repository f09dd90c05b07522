"""Pub/Sub as the work queue: for workers on many machines.

Five topics with a subscription each: NAME-lists, NAME-copies, NAME-huge, NAME-reports, NAME-dead. Pulled synchronously: a worker
knows how much it has room for, and extends its leases itself. The board is an object in Cloud Storage, which any number may read.

The service counts each delivery whose lease ended, by itself or by a nack (documented: max_delivery_attempts = 1 + nacks +
expiries). So what is given back is published anew, and the old message acknowledged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable, Superseded
from cdn_worker.queues.rules import DELIVERIES_MAX, explain_superseded

EMULATOR = "PUBSUB_EMULATOR_HOST"
STORAGE_EMULATOR = "STORAGE_EMULATOR_HOST"
DEADLINE_S = 30.0
PULL_S = 20.0
"""A pull is given so long: one that is cut short may have leased what its caller never sees."""
MESSAGES_MAX = 1000
PUBLISH_BYTES = 8_000_000
ACKS_AT_ONCE = 1000
USUAL_BYTES = 100_000
"""Of a message, before there was one."""
REASON_BYTES = 1000
RETENTION_S = 7 * 24 * 3600
LEASE_LEAST, LEASE_MOST = 10, 600
NAMES = ("lists", "copies", "huge", "reports", "dead")
AGAIN = "again"
"""An attribute of messages that were given back, and published anew."""
_ADDRESS = re.compile(
    r"pubsub://(?P<project>[a-z][a-z0-9.:-]*)/(?P<name>[A-Za-z][A-Za-z0-9._~+%-]{1,200})"
    r"(\?board=gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)/(?P<object>[^?#]+))?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """`pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT`. Without a board nothing that is posted reaches a worker."""

    project: str
    name: str
    bucket: str
    object: str

    def topic(self, which: str) -> str:
        return f"projects/{self.project}/topics/{self.name}-{which}"

    def subscription(self, which: str) -> str:
        return f"projects/{self.project}/subscriptions/{self.name}-{which}"


def address_of(text: str) -> Address:
    """Raises BadInput."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise BadInput(f"--queue {text!r}: it is written pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT")
    if not found["bucket"]:
        raise BadInput(
            f"--queue {text}: workers learn of pauses from an object in Cloud Storage: add ?board=gs://BUCKET/OBJECT, in a "
            "bucket that the daemon may write and workers may read"
        )
    return Address(found["project"], found["name"], found["bucket"], found["object"])


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of the service as ours."""
    try:
        yield
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, grpc.RpcError, OSError, ValueError) as error:
        code = getattr(error, "grpc_status_code", None)
        named = f"{code.name}: " if code is not None else ""
        raise QueueUnavailable(f"{what}: {named}{getattr(error, 'message', None) or error}") from error


class PubSubQueue:
    """One of the queues. dead: the topic of what cannot be dealt with."""

    def __init__(
        self, publisher: PublisherClient, subscriber: SubscriberClient, topic: str, subscription: str, dead: str, lease_s: int
    ) -> None:
        self._publisher, self._subscriber = publisher, subscriber
        self._topic, self._subscription, self._dead = topic, subscription, dead
        self._lease_s = lease_s
        self._usual_bytes = USUAL_BYTES

    def publish(self, bodies: Sequence[bytes]) -> None:
        self._publish(bodies, {})

    def _publish(self, bodies: Sequence[bytes], attributes: Mapping[str, str]) -> None:
        for some in _batches(bodies):
            messages = [types.PubsubMessage(data=body, attributes=attributes) for body in some]
            with translated(self._topic):
                self._publisher.publish(topic=self._topic, messages=messages, timeout=DEADLINE_S, retry=None)

    def lease(self, most: int, wait_s: float = 0.0, *, bytes_max: int | None = None) -> list[Leased]:
        """Waits as long as the service lets a pull wait, which is longer than `wait_s`.

        It counts messages, not bytes: so many are asked for as would do if they were as long as the last ones.
        """
        wait = max(PULL_S, wait_s)
        if bytes_max is not None:
            most = max(1, min(most, bytes_max // self._usual_bytes))
        try:
            with translated(self._subscription):
                answer = self._subscriber.pull(
                    subscription=self._subscription, max_messages=min(most, MESSAGES_MAX), timeout=wait, retry=None
                )
        except QueueUnavailable as error:
            if isinstance(error.__cause__, exceptions.DeadlineExceeded):
                return []
            raise
        found = [_leased(one) for one in answer.received_messages]
        if found:
            self._usual_bytes = max(1, sum(len(one.body) for one in found) // len(found))
        return found

    def extend(self, leases: Sequence[Leased]) -> list[Leased]:
        """The service does not tell of which leases it is too late."""
        self._modify(leases, self._lease_s)
        return []

    def release(self, leases: Sequence[Leased], *, counted: bool = False) -> None:
        if counted:
            self._modify(leases, 0)
            return
        self._publish([one.body for one in leases], {AGAIN: "1"})
        self.ack(leases)

    def _modify(self, leases: Sequence[Leased], seconds: int) -> None:
        for some in _chunks(leases):
            with translated(self._subscription):
                self._subscriber.modify_ack_deadline(
                    subscription=self._subscription,
                    ack_ids=[one.token for one in some],
                    ack_deadline_seconds=seconds,
                    timeout=DEADLINE_S,
                    retry=None,
                )

    def ack(self, leases: Sequence[Leased]) -> None:
        for some in _chunks(leases):
            with translated(self._subscription):
                self._subscriber.acknowledge(
                    subscription=self._subscription, ack_ids=[one.token for one in some], timeout=DEADLINE_S, retry=None
                )

    def bury(self, lease: Leased, reason: str) -> None:
        text = reason.encode()[:REASON_BYTES].decode(errors="ignore") or "no reason was given"
        message = types.PubsubMessage(data=lease.body, attributes={"reason": text})
        with translated(self._dead):
            self._publisher.publish(topic=self._dead, messages=[message], timeout=DEADLINE_S, retry=None)
        self.ack([lease])

    def backlog(self) -> None:
        """Cloud Monitoring knows (`num_undelivered_messages`), minutes late."""
        return

    def close(self) -> None:
        for client in (self._publisher, self._subscriber):
            transport: Any = client.transport
            transport.close()


class GcsBoard:
    """What is posted, as one small object: the migration, the epoch of the lease of whoever posted, and the jobs."""

    def __init__(self, client: Any, bucket: str, name: str) -> None:
        self._client, self._bucket, self._name = client, client.bucket(bucket), name
        self._shown = f"gs://{bucket}/{name}"

    def bind(self, migration: str) -> str:
        with translated(self._shown):
            generation, board = self._there()
            if not board.get("migration"):
                self._put(board | {"migration": migration}, generation)
                return migration
            return str(board["migration"])

    def post(self, states: Mapping[str, JobState], *, epoch: int = 0) -> None:
        with translated(self._shown):
            generation, board = self._there()
            known = board.get("epoch", 0)
            if epoch < known:
                raise Superseded(explain_superseded(epoch, known))
            jobs = {job: state.value for job, state in states.items()}
            self._put(board | {"epoch": epoch, "jobs": jobs}, generation)

    def read(self) -> Mapping[str, JobState]:
        with translated(self._shown):
            return {str(job): JobState(state) for job, state in self._there()[1].get("jobs", {}).items()}

    def _there(self) -> tuple[int, dict[str, Any]]:
        """(generation, board) as it is; generation 0 where nothing was ever posted. Raises ValueError for what is no board."""
        blob = self._bucket.blob(self._name)  # anew: one that was read before would be read in that generation again
        try:
            text = blob.download_as_bytes(timeout=DEADLINE_S)
        except exceptions.NotFound:
            return 0, {}
        board = json.loads(text)
        whole = isinstance(board, dict) and isinstance(board.get("jobs", {}), dict) and isinstance(board.get("epoch", 0), int)
        if not whole:
            raise ValueError("it is not the board that a daemon posts")
        # What a daemon of an earlier release posted holds jobs alone.
        return int(blob.generation), board if set(board) & {"jobs", "migration", "epoch"} else {"jobs": board}

    def _put(self, board: Mapping[str, Any], generation: int) -> None:
        """Replace just that generation: who was frozen since it looked writes over nothing."""
        self._bucket.blob(self._name).upload_from_string(
            json.dumps(board), content_type="application/json", timeout=DEADLINE_S, if_generation_match=generation
        )

    def close(self) -> None:
        self._client.close()


@dataclass(frozen=True, slots=True)
class _Clients:
    publisher: PublisherClient
    subscriber: SubscriberClient


def _clients() -> _Clients:
    host = os.environ.get(EMULATOR)
    if not host:
        with translated("Google credentials"):
            return _Clients(PublisherClient(), SubscriberClient())
    options = [("grpc.max_receive_message_length", -1)]
    publisher = PublisherClient(transport=PublisherGrpcTransport(channel=grpc.insecure_channel(host, options=options)))
    return _Clients(
        publisher, SubscriberClient(transport=SubscriberGrpcTransport(channel=grpc.insecure_channel(host, options=options)))
    )


def pubsub_queues(text: str) -> Queues:
    """The queues at an address. Raises BadInput when one of them is not there, or may not be looked at.

    Leases last as long as the subscriptions say: a pull begins them so, whatever its caller would like.
    """
    address = address_of(text)
    try:
        clients = _clients()
        found = {which: _looked_at(clients, address, which) for which in NAMES}
    except QueueUnavailable as error:
        raise BadInput(f"--queue {text}: {error}") from error

    def queue(which: str) -> PubSubQueue:
        return PubSubQueue(
            clients.publisher,
            clients.subscriber,
            address.topic(which),
            address.subscription(which),
            address.topic("dead"),
            found[which].ack_deadline_seconds,
        )

    return Queues(
        lists=queue("lists"),
        copies=queue("copies"),
        huge=queue("huge"),
        reports=queue("reports"),
        dead=queue("dead"),
        board=GcsBoard(_storage(address.project), address.bucket, address.object),
        lease_s=float(min(one.ack_deadline_seconds for one in found.values())),
        id=f"{address.project}/{address.name}",
        warnings=tuple(
            f"subscription {one.name} has no dead-letter policy: a message that kills workers would come back for ever"
            for which, one in found.items()
            if which != "dead" and not one.dead_letter_policy.dead_letter_topic
        ),
    )


def _storage(project: str) -> Any:
    if os.environ.get(STORAGE_EMULATOR):
        return storage.Client(project=project, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    return storage.Client(project=project)


def _looked_at(clients: _Clients, address: Address, which: str) -> types.Subscription:
    """A subscription. Raises BadInput when it is not there, or is of another topic."""
    name = address.subscription(which)
    with translated(name):
        try:
            found: types.Subscription = clients.subscriber.get_subscription(subscription=name, timeout=DEADLINE_S, retry=None)
        except exceptions.NotFound:
            raise BadInput(
                f"there is no subscription {name}: `cdn-worker prepare-queue --queue …` makes the topics and subscriptions"
            ) from None
    if found.topic != address.topic(which):
        raise BadInput(f"subscription {name} is of {found.topic}, not of {address.topic(which)}")
    return found


def prepare_pubsub(text: str, *, lease_s: float = 60.0) -> list[str]:
    """Make what is missing; what was done, a line each. Raises BadInput."""
    address = address_of(text)
    if not LEASE_LEAST <= lease_s <= LEASE_MOST:
        raise BadInput(f"--lease {lease_s:g}: Pub/Sub takes {LEASE_LEAST} to {LEASE_MOST} seconds")
    done: list[str] = []
    try:
        clients = _clients()
        for which in ("dead", *(one for one in NAMES if one != "dead")):
            topic = address.topic(which)
            if _made(topic, lambda topic=topic: clients.publisher.create_topic(name=topic, timeout=DEADLINE_S, retry=None)):
                done.append(f"made {topic}")
            wanted = _subscription(address, which, round(lease_s))
            if _made(wanted.name, lambda one=wanted: clients.subscriber.create_subscription(one, timeout=DEADLINE_S, retry=None)):
                done.append(f"made {wanted.name}")
    except QueueUnavailable as error:
        raise BadInput(f"--queue {text}: {error}") from error
    return done


def _made(what: str, make: Any) -> bool:
    with translated(what):
        try:
            make()
        except exceptions.AlreadyExists:
            return False
    return True


def _subscription(address: Address, which: str, lease_s: int) -> types.Subscription:
    made = types.Subscription(
        name=address.subscription(which),
        topic=address.topic(which),
        ack_deadline_seconds=lease_s,
        message_retention_duration=duration_pb2.Duration(seconds=RETENTION_S),
        expiration_policy=types.ExpirationPolicy(),  # never: a migration may pause for a month
    )
    if which != "dead":
        made.dead_letter_policy = types.DeadLetterPolicy(
            dead_letter_topic=address.topic("dead"), max_delivery_attempts=DELIVERIES_MAX
        )
    return made


def _leased(received: types.ReceivedMessage) -> Leased:
    message = received.message
    attributes = dict(message.attributes)
    times = attributes.get("CloudPubSubDeadLetterSourceDeliveryCount", "")
    reason = attributes.get("reason") or (f"delivered {times} times, and never answered" if times else "")
    attempt = received.delivery_attempt or 1
    return Leased(bytes(message.data), received.ack_id, attempt, reason, attempt > 1 or AGAIN in attributes)


def _batches(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Runs that fit into one request."""
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (len(batch) == MESSAGES_MAX or size + len(body) > PUBLISH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body) + 64
    if batch:
        yield batch


def _chunks(leases: Sequence[Leased]) -> Iterator[Sequence[Leased]]:
    for start in range(0, len(leases), ACKS_AT_ONCE):
        yield leases[start : start + ACKS_AT_ONCE]

"""The gRPC face of Pub/Sub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from tools.emulators.ledger import Ledger
from tools.emulators.pubsub.broker import ACK_REQUEST_BYTES_MAX, Broker
from tools.emulators.pubsub.rules import DEADLINES
from tools.emulators.rpc import Refused, Rpc, handlers, invalid

WORKERS = 64
STREAM_LOOK_S = 0.1
STREAM_MESSAGES_MAX = 1000


class PubSubServer:
    """A gRPC server on a free loopback port."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.broker = Broker(ledger)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=WORKERS), options=[("grpc.max_receive_message_length", 20 << 20)]
        )
        self._server.add_generic_rpc_handlers(
            (
                handlers(ledger, "pubsub", "google.pubsub.v1.Publisher", self._publisher()),
                handlers(ledger, "pubsub", "google.pubsub.v1.Subscriber", self._subscriber()),
                grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", {"StreamingPull": self._streaming()}),
            )
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._stopping = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> PubSubServer:
        self._server.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._server.stop(grace=0.2).wait(timeout=5)

    def reset(self) -> None:
        self.broker.reset()

    def _publisher(self) -> list[Rpc]:
        broker, empty = self.broker, empty_pb2.Empty
        return [
            ("CreateTopic", types.Topic, types.Topic, broker.create_topic, "pubsub.topics.create"),
            ("GetTopic", types.GetTopicRequest, types.Topic, broker.get_topic, "pubsub.topics.get"),
            ("DeleteTopic", types.DeleteTopicRequest, empty, _nothing(broker.delete_topic), "pubsub.topics.delete"),
            ("Publish", types.PublishRequest, types.PublishResponse, broker.publish, "pubsub.topics.publish"),
        ]

    def _subscriber(self) -> list[Rpc]:
        broker, kind, empty = self.broker, types.Subscription, empty_pb2.Empty
        return [
            ("CreateSubscription", kind, kind, broker.create_subscription, "pubsub.subscriptions.create"),
            ("GetSubscription", types.GetSubscriptionRequest, kind, broker.get_subscription, "pubsub.subscriptions.get"),
            (
                "DeleteSubscription",
                types.DeleteSubscriptionRequest,
                empty,
                _nothing(broker.delete_subscription),
                "pubsub.subscriptions.delete",
            ),
            ("Pull", types.PullRequest, types.PullResponse, self._pull, "pubsub.subscriptions.consume"),
            ("Acknowledge", types.AcknowledgeRequest, empty, _nothing(self._ack), "pubsub.subscriptions.consume"),
            ("ModifyAckDeadline", types.ModifyAckDeadlineRequest, empty, _nothing(self._modify), "pubsub.subscriptions.consume"),
        ]

    def _pull(self, request: types.PullRequest) -> types.PullResponse:
        wait_s = self._ledger.setting("pubsub.pull_seconds")
        found = self.broker.pull(request.subscription, request.max_messages, wait_s)
        return types.PullResponse(received_messages=found)

    def _ack(self, request: types.AcknowledgeRequest) -> None:
        _check_size(types.AcknowledgeRequest.pb(request).ByteSize())
        self.broker.acknowledge(request.subscription, list(request.ack_ids))

    def _modify(self, request: types.ModifyAckDeadlineRequest) -> None:
        _check_size(types.ModifyAckDeadlineRequest.pb(request).ByteSize())
        self.broker.modify(request.subscription, list(request.ack_ids), request.ack_deadline_seconds)

    def _streaming(self) -> grpc.RpcMethodHandler:
        kind = types.StreamingPullRequest
        return grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=kind.deserialize, response_serializer=types.StreamingPullResponse.serialize
        )

    def _stream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """The first request names the subscription; the later ones acknowledge and extend."""
        fault = self._ledger.count("pubsub", "StreamingPull")
        if fault is not None:
            context.abort(grpc.StatusCode[fault.error], fault.message)
        first = next(requests)
        seconds = first.stream_ack_deadline_seconds
        try:
            if not DEADLINES[0] <= seconds <= DEADLINES[1]:
                raise invalid(f"Invalid stream_ack_deadline_seconds given: {seconds}. It must be between 10 and 600.")
            name = first.subscription
            threading.Thread(target=self._answered, args=(name, requests), daemon=True).start()
            while context.is_active() and not self._stopping.is_set():
                found = self.broker.pull(name, STREAM_MESSAGES_MAX, STREAM_LOOK_S, seconds)
                if found and not context.is_active():
                    # The client went away while the pull waited: what it would never see is not held back from others.
                    self.broker.modify(name, [one.ack_id for one in found], 0)
                elif found:
                    yield types.StreamingPullResponse(received_messages=found)
        except Refused as refused:
            context.abort(refused.code, refused.message)

    def _answered(self, name: str, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self.broker.acknowledge(name, list(request.ack_ids))
                for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
                    self.broker.modify(name, [ack_id], seconds)
        except (grpc.RpcError, Refused):
            return  # the stream has ended, and with it what could be said on it


def _nothing(call: Any) -> Any:
    def answer(request: Any) -> empty_pb2.Empty:
        call(request)
        return empty_pb2.Empty()

    return answer


def _check_size(size: int) -> None:
    if size > ACK_REQUEST_BYTES_MAX:
        raise invalid(f"Request payload size exceeds the limit: {ACK_REQUEST_BYTES_MAX} bytes (it is {size}).")

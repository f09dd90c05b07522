"""gRPC faces: official message types, registered as generic handlers under a service's own method paths."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tools.emulators.ledger import Ledger
from tools.emulators.web import pause_for

Rpc = tuple[str, Any, Any, Callable[[Any], Any], str]
"""(method, request type, response type, answer, permission it needs)"""


class Refused(Exception):
    """What the service would not do: a gRPC status and a message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


APIS = {"sts": "storagetransfer.googleapis.com", "monitoring": "monitoring.googleapis.com", "pubsub": "pubsub.googleapis.com"}


def disabled(api: str, project: str) -> str:
    """What the services say of an API that is off."""
    return (
        f"{api} has not been used in project {project} before or it is disabled. Enable it by visiting "
        f"https://console.developers.google.com/apis/api/{api}/overview then retry."
    )


def handlers(ledger: Ledger, label: str, service: str, rpcs: Sequence[Rpc]) -> grpc.GenericRpcHandler:
    """The handlers of one service; `label` is its name in counts and faults."""
    return grpc.method_handlers_generic_handler(service, {rpc[0]: _unary(ledger, label, *rpc) for rpc in rpcs})


def _unary(
    ledger: Ledger, label: str, name: str, request: Any, response: Any, answer: Callable[[Any], Any], permission: str
) -> grpc.RpcMethodHandler:
    """A handler that counts, meets faults, asks for its permission, and turns refusals into the service's statuses."""

    def handle(message: Any, context: grpc.ServicerContext) -> Any:
        fault = ledger.count(label, name)
        if fault is not None:
            pause_for(fault.delay_s)
            if not fault.applied:
                context.abort(grpc.StatusCode[fault.error], fault.message)
        if (api := APIS.get(label)) in ledger.setting("apis.disabled"):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, disabled(str(api), ledger.projects[0]))
        if not ledger.permits(permission):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"Permission {permission} denied (or the resource may not exist).")
        try:
            result = answer(message)
        except Refused as refused:
            context.abort(refused.code, refused.message)
        if fault is not None:
            context.abort(grpc.StatusCode[fault.error], f"{fault.message} (applied, then the answer was lost)")
        return result

    parse = request.deserialize if hasattr(request, "deserialize") else request.FromString
    write = response.serialize if hasattr(response, "serialize") else response.SerializeToString
    return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=parse, response_serializer=write)


def page(found: Sequence[Any], size: int, token: str) -> tuple[list[Any], str]:
    """A page of a list, and the token of the next one."""
    try:
        start = int(base64.urlsafe_b64decode(token or base64.urlsafe_b64encode(b"0")))
    except ValueError as error:
        raise invalid("invalid page_token") from error
    end = start + size
    after = base64.urlsafe_b64encode(str(end).encode()).decode() if end < len(found) else ""
    return list(found[start:end]), after

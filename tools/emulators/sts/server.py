"""The gRPC face: the official message types, registered as generic handlers under the service's own method paths."""

from __future__ import annotations

import sys
import threading
from concurrent import futures
from traceback import format_exc

import grpc
from google.cloud import storage_transfer_v1 as sts
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

from tools.emulators.ledger import Ledger
from tools.emulators.rpc import Rpc, handlers, invalid, page
from tools.emulators.sts.bucket_access import agent_of
from tools.emulators.sts.copier import ACTIVE
from tools.emulators.sts.rules import JOB_FIELDS, OPERATION_FIELDS, filter_of, page_size
from tools.emulators.sts.service import Operation, TransferService, described

TICK_S = 0.02
SERVICE = "google.storagetransfer.v1.StorageTransferService"
OPERATIONS = "google.longrunning.Operations"


class StsAnswers:
    """Requests as the official client makes them, and the service's answers. Raises Refused."""

    def __init__(self, service: TransferService) -> None:
        self._service = service

    def create(self, request: sts.CreateTransferJobRequest) -> sts.TransferJob:
        return self._service.create(request.transfer_job)

    def get(self, request: sts.GetTransferJobRequest) -> sts.TransferJob:
        return self._service.get(request.job_name, request.project_id)

    def update(self, request: sts.UpdateTransferJobRequest) -> sts.TransferJob:
        mask = list(request.update_transfer_job_field_mask.paths)
        return self._service.update(request.job_name, request.project_id, request.transfer_job, mask)

    def list_jobs(self, request: sts.ListTransferJobsRequest) -> sts.ListTransferJobsResponse:
        found = self._service.list_jobs(filter_of(request.filter, JOB_FIELDS))
        shown, token = page(found, page_size(request.page_size), request.page_token)
        return sts.ListTransferJobsResponse(transfer_jobs=shown, next_page_token=token)

    def delete(self, request: sts.DeleteTransferJobRequest) -> empty_pb2.Empty:
        self._service.delete(request.job_name, request.project_id)
        return empty_pb2.Empty()

    def run(self, request: sts.RunTransferJobRequest) -> operations_pb2.Operation:
        return self._long_running(self._service.run(request.job_name, request.project_id))

    def pause(self, request: sts.PauseTransferOperationRequest) -> empty_pb2.Empty:
        self._service.pause(request.name)
        return empty_pb2.Empty()

    def resume(self, request: sts.ResumeTransferOperationRequest) -> empty_pb2.Empty:
        self._service.resume(request.name)
        return empty_pb2.Empty()

    def account(self, request: sts.GetGoogleServiceAccountRequest) -> sts.GoogleServiceAccount:
        self._service.check_project(request.project_id)
        return sts.GoogleServiceAccount(account_email=agent_of(request.project_id), subject_id="1")

    def get_operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        return self._long_running(self._service.operation(request.name))

    def list_operations(self, request: operations_pb2.ListOperationsRequest) -> operations_pb2.ListOperationsResponse:
        if request.name != "transferOperations":
            raise invalid("name must be 'transferOperations'")
        found = self._service.list_operations(filter_of(request.filter, OPERATION_FIELDS))
        shown, token = page(found, page_size(request.page_size), request.page_token)
        operations = [self._long_running(operation) for operation in shown]
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    def cancel(self, request: operations_pb2.CancelOperationRequest) -> empty_pb2.Empty:
        self._service.cancel(request.name)
        return empty_pb2.Empty()

    def _long_running(self, operation: Operation) -> operations_pb2.Operation:
        shown = described(operation, self._service.project_of(operation))
        metadata = any_pb2.Any()
        metadata.Pack(sts.TransferOperation.pb(shown))
        return operations_pb2.Operation(name=operation.name, metadata=metadata, done=operation.work.status not in ACTIVE)


class StsServer:
    """A gRPC server on a free loopback port."""

    def __init__(self, ledger: Ledger, service: TransferService) -> None:
        self._ledger, self._service = ledger, service
        self.answers = StsAnswers(service)
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        self._server.add_generic_rpc_handlers(self._handlers())
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._stopping = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> StsServer:
        self._service.copier.start()
        self._ticking.start()
        self._server.start()
        return self

    def _tick(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self._service.tend()
            except Exception:  # noqa: BLE001 - a defect of the stage must not stop the time of all that come after
                print(f"stage: the clock of event streams:\n{format_exc()}", file=sys.stderr)

    def stop(self) -> None:
        self._stopping.set()
        self._ticking.join(timeout=5)
        self._server.stop(grace=0.2).wait(timeout=5)
        self._service.copier.stop()

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        to, empty, long_running = self.answers, empty_pb2.Empty, operations_pb2
        transfer: list[Rpc] = [
            ("CreateTransferJob", sts.CreateTransferJobRequest, sts.TransferJob, to.create, "storagetransfer.jobs.create"),
            ("GetTransferJob", sts.GetTransferJobRequest, sts.TransferJob, to.get, "storagetransfer.jobs.get"),
            ("UpdateTransferJob", sts.UpdateTransferJobRequest, sts.TransferJob, to.update, "storagetransfer.jobs.update"),
            (
                "ListTransferJobs",
                sts.ListTransferJobsRequest,
                sts.ListTransferJobsResponse,
                to.list_jobs,
                "storagetransfer.jobs.list",
            ),
            ("DeleteTransferJob", sts.DeleteTransferJobRequest, empty, to.delete, "storagetransfer.jobs.delete"),
            ("RunTransferJob", sts.RunTransferJobRequest, long_running.Operation, to.run, "storagetransfer.jobs.run"),
            (
                "PauseTransferOperation",
                sts.PauseTransferOperationRequest,
                empty,
                to.pause,
                "storagetransfer.operations.pause",
            ),
            (
                "ResumeTransferOperation",
                sts.ResumeTransferOperationRequest,
                empty,
                to.resume,
                "storagetransfer.operations.resume",
            ),
            (
                "GetGoogleServiceAccount",
                sts.GetGoogleServiceAccountRequest,
                sts.GoogleServiceAccount,
                to.account,
                "storagetransfer.projects.getServiceAccount",
            ),
        ]
        operations: list[Rpc] = [
            (
                "GetOperation",
                long_running.GetOperationRequest,
                long_running.Operation,
                to.get_operation,
                "storagetransfer.operations.get",
            ),
            (
                "ListOperations",
                long_running.ListOperationsRequest,
                long_running.ListOperationsResponse,
                to.list_operations,
                "storagetransfer.operations.list",
            ),
            ("CancelOperation", long_running.CancelOperationRequest, empty, to.cancel, "storagetransfer.operations.cancel"),
        ]
        return tuple(handlers(self._ledger, "sts", name, rpcs) for name, rpcs in ((SERVICE, transfer), (OPERATIONS, operations)))

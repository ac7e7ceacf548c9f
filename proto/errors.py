"""The error tree: who is at fault, may it be retried, and what was seen.

ShoalError
  ClientFault                 the caller must change something            4xx
    InvalidArgument           a field is over a limit or impossible       400  INVALID_ARGUMENT
    Unauthenticated           no key, or a wrong one                      401  UNAUTHENTICATED
    Forbidden                 a right key for somebody else's thing       403  PERMISSION_DENIED
    NotFound                  unknown model, request or instance          404  NOT_FOUND
    Quarantined               this request was present at two crashes     422  FAILED_PRECONDITION
  Overloaded                  a queue is full; try again later            429  RESOURCE_EXHAUSTED
  Unavailable                 nobody can serve this now; try again later  503  UNAVAILABLE
    DeadlinePassed            waited until its deadline                   503  DEADLINE_EXCEEDED
  ServerFault                 our fault                                   500  INTERNAL
    BadMessage                bytes from a peer that no schema accepts    500  INTERNAL
    VersionMismatch           a peer of another vLLM minor or protocol    500  FAILED_PRECONDITION
    StartFailed               a process could not come up; one line says why

`grpc_code` is the name of a gRPC status code, so that this module needs no gRPC.
"""

from typing import ClassVar


class ShoalError(Exception):
    """Base of all errors of this project. `retry_after_s` is None where a retry cannot help."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClientFault(ShoalError):
    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class InvalidArgument(ClientFault):
    """A request field that no engine may see. The message names field, limit and given value."""

    def __init__(self, field: str, *, limit: str, given: object) -> None:
        super().__init__(f"{field}: must be {limit}, given {given!r}")
        self.field, self.limit, self.given = field, limit, given


class Unauthenticated(ClientFault):
    http_status = 401
    grpc_code = "UNAUTHENTICATED"


class Forbidden(ClientFault):
    http_status = 403
    grpc_code = "PERMISSION_DENIED"


class NotFound(ClientFault):
    http_status = 404
    grpc_code = "NOT_FOUND"


class Quarantined(ClientFault):
    http_status = 422
    grpc_code = "FAILED_PRECONDITION"


class Overloaded(ShoalError):
    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"


class Unavailable(ShoalError):
    http_status = 503
    grpc_code = "UNAVAILABLE"


class DeadlinePassed(Unavailable):
    grpc_code = "DEADLINE_EXCEEDED"


class ServerFault(ShoalError):
    pass


class BadMessage(ServerFault):
    pass


class VersionMismatch(ServerFault):
    grpc_code = "FAILED_PRECONDITION"


class StartFailed(ServerFault):
    pass


__all__ = [
    "BadMessage",
    "ClientFault",
    "DeadlinePassed",
    "Forbidden",
    "InvalidArgument",
    "NotFound",
    "Overloaded",
    "Quarantined",
    "ServerFault",
    "ShoalError",
    "StartFailed",
    "Unauthenticated",
    "Unavailable",
    "VersionMismatch",
]

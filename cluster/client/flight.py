"""One request on its way, as a pure state machine: which call to make next, which token is due, when to give up.

    state      | a failure may be followed by
    starting   | Generate again, under a new id: on RESOURCE_EXHAUSTED that says when to come back, and on UNAVAILABLE
    streaming  | Resume at the next token, at another address: on UNAVAILABLE, and while nobody knows the request yet

The server keeps a request of a lost frontend for 30 s, and frontends notice each other's end within two: hence the
windows. A repeated Generate has a new id because the lost one may still be running somewhere, and Resume must never
find that one. RESOURCE_EXHAUSTED without a time to come back is gRPC's word for a message that is too large: it would
never succeed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from shoal.cluster.client.errors import CallFailed
from shoal.proto.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts: int = 6
    first_backoff_s: float = 0.05
    max_backoff_s: float = 2.0
    resume_window_s: float = 30.0
    unknown_window_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """What a call ended with. `code` is the name of a gRPC status code."""

    code: str
    message: str
    retry_after_s: float | None = None

    @property
    def passing(self) -> bool:
        return self.code == "UNAVAILABLE" or (self.code == "RESOURCE_EXHAUSTED" and self.retry_after_s is not None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call to make. `message` is of the kind that `method` takes."""

    address: str
    method: str
    message: pb.GenerateRequest | pb.ResumeRequest
    timeout_s: float | None


class Retries:
    """Sole owner of one call's failures and of the address it turns to next."""

    def __init__(self, addresses: Sequence[str], policy: RetryPolicy, rng: Random, deadline_s: float | None) -> None:
        if not addresses:
            raise ValueError("addresses: must be at least one")
        self.policy, self.deadline_s, self.failures = policy, deadline_s, 0
        self._addresses, self._rng = list(addresses), rng
        self._turn = rng.randrange(len(self._addresses))

    @property
    def address(self) -> str:
        return self._addresses[self._turn % len(self._addresses)]

    def left_s(self, now_s: float) -> float | None:
        return None if self.deadline_s is None else max(0.0, self.deadline_s - now_s)

    def wait_s(self, failure: Failure, now_s: float) -> float | None:
        """How long to wait before another address is tried; None: not within the deadline."""
        if failure.retry_after_s is not None:
            wait_s = failure.retry_after_s * self._rng.uniform(1.0, 1.2)
        else:
            longest_s = min(self.policy.max_backoff_s, self.policy.first_backoff_s * 2**self.failures)
            wait_s = longest_s * self._rng.uniform(0.5, 1.0)
        self.failures += 1
        self._turn += 1
        return wait_s if self.deadline_s is None or now_s + wait_s < self.deadline_s else None

    def repeat_in_s(self, failure: Failure, now_s: float) -> float:
        """For a call that may simply be made again. Raises CallFailed: it may not."""
        again = failure.passing and self.failures + 1 < self.policy.attempts
        wait_s = self.wait_s(failure, now_s) if again else None
        if wait_s is None:
            raise CallFailed(failure.code, failure.message)
        return wait_s


class Flight:
    """Sole owner of one request's progress. Times are the caller's monotonic seconds."""

    def __init__(self, request: pb.GenerateRequest, retries: Retries) -> None:
        self._request, self._retries = request, retries
        self._first_id, self._starts = request.request_id, 0
        self._choices = request.sampling.n or 1
        self._tokens: Counter[int] = Counter()  # delivered, per choice
        self._finished: set[int] = set()
        self._streaming = False
        self._lost_s: float | None = None  # when the present interruption began

    @property
    def request_id(self) -> str:
        return self._request.request_id

    def next_attempt(self, now_s: float) -> Attempt:
        timeout_s = self._retries.left_s(now_s)
        if self._streaming:
            message = pb.ResumeRequest(request_id=self.request_id, next_index=self._tokens[0])
            return Attempt(self._retries.address, "Resume", message, timeout_s)
        if self._starts:
            self._request.request_id = f"{self._first_id}.{self._starts}"
        self._starts += 1
        return Attempt(self._retries.address, "Generate", self._request, timeout_s)

    def took(self, reply: pb.GenerateReply) -> None:
        """Raises where a token would be lost or doubled."""
        due = self._tokens[reply.choice]
        if reply.index != due or reply.choice in self._finished:
            raise self._failed(Failure("DATA_LOSS", f"choice {reply.choice}: token {due} is due, {reply.index} came"))
        self._tokens[reply.choice] += len(reply.token_ids)
        self._streaming, self._lost_s, self._retries.failures = True, None, 0
        if reply.finish_reason:
            self._finished.add(reply.choice)

    def ended(self, now_s: float) -> float | None:
        """The call ended well: None if the request did too, else seconds to wait before the next attempt."""
        if len(self._finished) >= self._choices:
            return None
        return self.failed(Failure("UNAVAILABLE", "the stream ended before the request did"), now_s)

    def failed(self, failure: Failure, now_s: float) -> float | None:
        """Seconds to wait before the next attempt; None: it had ended already. Raises CallFailed: there is none."""
        if len(self._finished) >= self._choices:
            return None
        again = self._may_resume(failure, now_s) if self._streaming else self._may_restart(failure)
        wait_s = self._retries.wait_s(failure, now_s) if again else None
        if wait_s is None:
            raise self._failed(failure)
        return wait_s

    def _may_restart(self, failure: Failure) -> bool:
        return failure.passing and self._starts < self._retries.policy.attempts

    def _may_resume(self, failure: Failure, now_s: float) -> bool:
        policy = self._retries.policy
        first = self._lost_s is None
        self._lost_s = now_s if self._lost_s is None else self._lost_s
        since_s = now_s - self._lost_s
        if self._choices > 1 or since_s > policy.resume_window_s:
            return False
        return failure.passing or (failure.code == "NOT_FOUND" and not first and since_s <= policy.unknown_window_s)

    def _failed(self, failure: Failure) -> CallFailed:
        delivered = sum(self._tokens.values())
        return CallFailed(failure.code, failure.message, request_id=self.request_id, delivered=delivered)


__all__ = ["Attempt", "Failure", "Flight", "Retries", "RetryPolicy"]

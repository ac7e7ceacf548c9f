"""The client for threads. See aio.py for its twin; what both decide is in flight.py."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from random import Random
from typing import Any

import grpc

from shoal.cluster.client.errors import CallFailed
from shoal.cluster.client.flight import Flight, Retries, RetryPolicy
from shoal.cluster.client.request import Answer, Words, build_request, join
from shoal.cluster.client.transport import OPTIONS, failure_of, metadata, method
from shoal.proto.v1 import inference_pb2 as pb


class ShoalClient:
    """Owns one channel per address until closed. Safe to share between threads.

    addresses: `host:port` of frontends, or one in front of all. credentials: for TLS; without, plain text.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        policy: RetryPolicy | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._metadata, self._credentials = metadata(key), credentials
        self._policy, self._rng, self._sleep, self._clock = policy or RetryPolicy(), rng or Random(), sleep, clock
        self._channels: dict[str, Any] = {}
        self._lock = threading.Lock()

    def generate(
        self,
        prompt: str | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        model: str = "",
        request_id: str = "",
        priority: int = 0,
        deadline_s: float = 0.0,
        program: str = "",
        service_class: str = "",
        timeout_s: float | None = None,
        **sampling: Any,
    ) -> Stream:
        """Starts when iterated, and raises CallFailed then. `sampling`: fields of SamplingParams in inference.proto.

        deadline_s: to the first token, judged by the server. program, service_class: see docs/api.md. timeout_s: of the
        whole, retries included.
        """
        words = Words(request_id or uuid.uuid4().hex, model, priority, deadline_s, program, service_class)
        request = build_request(prompt, token_ids, words, sampling)
        return Stream(self, Flight(request, self._retries(timeout_s)))

    def cancel(self, request_id: str, *, timeout_s: float | None = 10.0) -> bool:
        """Only the frontend that serves a request knows it: asks every address. True if one did.

        Raises CallFailed where none did and some could not be asked.
        """
        failure = None
        for address in self._addresses:
            try:
                if self._unary("Cancel", pb.CancelRequest(request_id=request_id), timeout_s, [address]).found:
                    return True
            except CallFailed as exc:
                failure = exc
        if failure is not None:
            raise failure
        return False

    def get_model(self, model: str = "", *, timeout_s: float | None = 10.0) -> pb.GetModelReply:
        reply: pb.GetModelReply = self._unary("GetModel", pb.GetModelRequest(model=model), timeout_s, self._addresses)
        return reply

    def close(self) -> None:
        with self._lock:
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()

    def __enter__(self) -> ShoalClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _retries(self, timeout_s: float | None, addresses: Sequence[str] | None = None) -> Retries:
        deadline_s = None if timeout_s is None else self._clock() + timeout_s
        return Retries(addresses or self._addresses, self._policy, self._rng, deadline_s)

    def _call(self, address: str, name: str, message: Any, timeout_s: float | None) -> Any:
        with self._lock:
            if address not in self._channels:
                self._channels[address] = self._connect(address)
            channel = self._channels[address]
        return method(channel, name)(message, timeout=timeout_s, metadata=self._metadata)

    def _connect(self, address: str) -> Any:
        if self._credentials is None:
            return grpc.insecure_channel(address, options=OPTIONS)
        return grpc.secure_channel(address, self._credentials, options=OPTIONS)

    def _unary(self, name: str, message: Any, timeout_s: float | None, addresses: Sequence[str]) -> Any:
        retries = self._retries(timeout_s, addresses)
        while True:
            try:
                return self._call(retries.address, name, message, retries.left_s(self._clock()))
            except grpc.RpcError as error:
                wait_s = retries.repeat_in_s(failure_of(error), self._clock())
            self._sleep(wait_s)


class Stream(Iterator[pb.GenerateReply]):
    """The replies of one request in order, each token exactly once, over as many calls as that takes."""

    def __init__(self, client: ShoalClient, flight: Flight) -> None:
        self._client, self._flight = client, flight
        self._rpc: Any = None
        self._replies = self._run()

    @property
    def request_id(self) -> str:
        """Of the present attempt."""
        return self._flight.request_id

    def __next__(self) -> pb.GenerateReply:
        return next(self._replies)

    def complete(self) -> Answer:
        return join(self)

    def close(self) -> None:
        """Ends the request, if it runs, from the thread that iterates. From another thread, use `cancel`."""
        self._replies.close()

    def cancel(self) -> None:
        """Ends the request; whoever iterates gets CallFailed CANCELLED."""
        if self._rpc is not None:
            self._rpc.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> Generator[pb.GenerateReply, None, None]:
        client, flight = self._client, self._flight
        wait_s: float | None = 0.0
        try:
            while wait_s is not None:
                if wait_s:
                    client._sleep(wait_s)
                attempt = flight.next_attempt(client._clock())
                try:
                    self._rpc = client._call(attempt.address, attempt.method, attempt.message, attempt.timeout_s)
                    for reply in self._rpc:
                        flight.took(reply)
                        yield reply
                    wait_s = flight.ended(client._clock())
                except grpc.RpcError as error:
                    wait_s = flight.failed(failure_of(error), client._clock())
        finally:
            self.cancel()


__all__ = ["ShoalClient", "Stream"]

"""The client for asyncio. See sync.py for its twin; what both decide is in flight.py."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any

import grpc
from grpc import aio

from shoal.cluster.client.errors import CallFailed
from shoal.cluster.client.flight import Flight, Retries, RetryPolicy
from shoal.cluster.client.request import Answer, Words, build_request
from shoal.cluster.client.transport import OPTIONS, failure_of, metadata, method
from shoal.proto.v1 import inference_pb2 as pb


class AsyncShoalClient:
    """Owns one channel per address until closed. Belongs to the event loop of its first call.

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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._metadata, self._credentials = metadata(key), credentials
        self._policy, self._rng, self._sleep, self._clock = policy or RetryPolicy(), rng or Random(), sleep, clock
        self._channels: dict[str, Any] = {}

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
    ) -> AsyncStream:
        """Starts when iterated, and raises CallFailed then. `sampling`: fields of SamplingParams in inference.proto.

        deadline_s: to the first token, judged by the server. program, service_class: see docs/api.md. timeout_s: of the
        whole, retries included.
        """
        words = Words(request_id or uuid.uuid4().hex, model, priority, deadline_s, program, service_class)
        request = build_request(prompt, token_ids, words, sampling)
        return AsyncStream(self, Flight(request, self._retries(timeout_s)))

    async def cancel(self, request_id: str, *, timeout_s: float | None = 10.0) -> bool:
        """Only the frontend that serves a request knows it: asks every address. True if one did.

        Raises CallFailed where none did and some could not be asked.
        """
        failure = None
        for address in self._addresses:
            try:
                reply = await self._unary("Cancel", pb.CancelRequest(request_id=request_id), timeout_s, [address])
                if reply.found:
                    return True
            except CallFailed as exc:
                failure = exc
        if failure is not None:
            raise failure
        return False

    async def get_model(self, model: str = "", *, timeout_s: float | None = 10.0) -> pb.GetModelReply:
        request = pb.GetModelRequest(model=model)
        reply: pb.GetModelReply = await self._unary("GetModel", request, timeout_s, self._addresses)
        return reply

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    async def __aenter__(self) -> AsyncShoalClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _retries(self, timeout_s: float | None, addresses: Sequence[str] | None = None) -> Retries:
        deadline_s = None if timeout_s is None else self._clock() + timeout_s
        return Retries(addresses or self._addresses, self._policy, self._rng, deadline_s)

    def _call(self, address: str, name: str, message: Any, timeout_s: float | None) -> Any:
        if address not in self._channels:
            self._channels[address] = self._connect(address)
        return method(self._channels[address], name)(message, timeout=timeout_s, metadata=self._metadata)

    def _connect(self, address: str) -> Any:
        if self._credentials is None:
            return aio.insecure_channel(address, options=OPTIONS)
        return aio.secure_channel(address, self._credentials, options=OPTIONS)

    async def _unary(self, name: str, message: Any, timeout_s: float | None, addresses: Sequence[str]) -> Any:
        retries = self._retries(timeout_s, addresses)
        while True:
            try:
                return await self._call(retries.address, name, message, retries.left_s(self._clock()))
            except aio.AioRpcError as error:
                wait_s = retries.repeat_in_s(failure_of(error), self._clock())
            await self._sleep(wait_s)


class AsyncStream(AsyncIterator[pb.GenerateReply]):
    """The replies of one request in order, each token exactly once, over as many calls as that takes."""

    def __init__(self, client: AsyncShoalClient, flight: Flight) -> None:
        self._client, self._flight = client, flight
        self._replies = self._run()

    @property
    def request_id(self) -> str:
        """Of the present attempt."""
        return self._flight.request_id

    async def __anext__(self) -> pb.GenerateReply:
        return await anext(self._replies)

    async def complete(self) -> Answer:
        answer = Answer()
        async for reply in self:
            answer.add(reply)
        return answer

    async def close(self) -> None:
        """Ends the request, if it runs. So does cancelling the task that iterates."""
        await self._replies.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _run(self) -> AsyncGenerator[pb.GenerateReply, None]:
        client, flight = self._client, self._flight
        wait_s: float | None = 0.0
        rpc: Any = None
        try:
            while wait_s is not None:
                if wait_s:
                    await client._sleep(wait_s)
                attempt = flight.next_attempt(client._clock())
                try:
                    rpc = client._call(attempt.address, attempt.method, attempt.message, attempt.timeout_s)
                    async for reply in rpc:
                        flight.took(reply)
                        yield reply
                    wait_s = flight.ended(client._clock())
                except aio.AioRpcError as error:
                    wait_s = flight.failed(failure_of(error), client._clock())
        finally:
            if rpc is not None:
                rpc.cancel()


__all__ = ["AsyncShoalClient", "AsyncStream"]

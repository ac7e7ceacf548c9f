"""The admission queue of one frontend: which requests may wait here, in which order, and for how long.

Owns every request between its arrival and its first token, and promises: at most `max_requests` of them and at most
`max_queued_tokens` of their context are let in by `offer`; each leaves exactly once, by `started`, `withdraw` or
`expire`.

  state    from                    to
  QUEUED   offer, readmit          PLACED, or out: withdrawn, past its deadline, no instance for too long
  PLACED   take                    out: started, withdrawn, past its deadline; back to QUEUED: readmit

Served by priority; within one class by fair shares between tenants, and of one tenant the earliest due first. A call of
a program is due as much earlier as its program began before it: programs that began are brought to their end, and a
workflow's later stages do not queue behind younger programs. Who would wait past its deadline by all that is known of
late is refused at once, with the time after which to come again: its client loses nothing by it, and nobody else waits
behind it. A request that was accepted once is never refused by its own return (`readmit`): what already streams was let
in before, so the bound may be passed by as much as ran on an instance that died.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import DeadlinePassed, InvalidArgument, NotFound, Overloaded, Unavailable
from shoal.router.contract import RouteRequest
from shoal.router.fair_order import FairOrder, Place
from shoal.router.wait_forecast import WaitForecast

_RATE_WINDOW_S = 10.0
_RATE_SAMPLES = 1024
_RETRY_S = (1.0, 60.0)
_RETRY_UNKNOWN_S = 5.0  # nothing left the queue of late: no rate to reckon with


@dataclass(slots=True)
class _Entry:
    request: RouteRequest
    place: Place
    queued_s: float
    deadline_s: float
    starts_before: int
    placed: bool = False


class AdmissionQueue:
    """Sole owner of the waiting requests. Pure: the caller brings the time and wakes itself at `next_expiry_s`."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._entries: dict[str, _Entry] = {}
        self._order = FairOrder()
        self._placed: list[Place] = []
        self._forecast = WaitForecast()
        self._tokens = 0
        self._serial = self._starts = 0
        self._empty_since_s: float | None = None
        self._departures: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)

    def offer(self, request: RouteRequest, now_s: float) -> None:
        """Raises Overloaded when there is no room or no hope of a first token within its deadline, InvalidArgument when
        there never will be room or the id is in use.
        """
        if request.request_id in self._entries:
            raise InvalidArgument("request_id", limit="not in use", given=request.request_id)
        limit = self._config.max_queued_tokens
        if request.context_tokens > limit:
            raise InvalidArgument("context_tokens", limit=f"at most {limit}", given=request.context_tokens)
        self._refuse_if_full(request, now_s)
        deadline_s = self._deadline_s(request)
        self._refuse_if_late(request, deadline_s, now_s)
        self._enter(request, deadline_s, now_s)

    def readmit(self, request: RouteRequest, now_s: float) -> None:
        """Its instance is gone. It keeps its deadline while it waits for its first token; else it gets a new one."""
        former = self._entries.get(request.request_id)
        deadline_s = former.deadline_s if former is not None else now_s + self._config.default_deadline_s
        if former is not None:
            self._remove(former)
        self._enter(request, deadline_s, now_s)

    def next(self) -> RouteRequest | None:
        """The one to place next, left where it is."""
        return next(iter(self._order), None)

    def queued(self) -> Iterator[RouteRequest]:
        """In the order in which they should be placed: when the first must wait for its adapter, others need not."""
        return iter(self._order)

    def take(self, request_id: str) -> RouteRequest:
        """It has a place. It keeps its room here until `started`."""
        entry = self._entries.get(request_id)
        if entry is None or entry.placed:
            raise NotFound(f"request {request_id}: not queued")
        self._order.remove(entry.place, entry.request)
        self._order.serve(entry.request)
        entry.placed = True
        insort(self._placed, entry.place)
        return entry.request

    def started(self, request_id: str, now_s: float) -> None:
        """Its first token came. Unknown ids are ignored: every request starts again after each hand-over."""
        entry = self._entries.get(request_id)
        if entry is not None and self._depart(request_id, now_s):
            self._forecast.started(self._starts - entry.starts_before, now_s - entry.queued_s, now_s)
            self._starts += 1

    def withdraw(self, request_id: str, now_s: float) -> bool:
        """Its client left, or it ended before its first token. True if it was here."""
        return self._depart(request_id, now_s)

    def set_no_instance(self, none: bool, now_s: float) -> None:
        """Tell whenever it may have changed: is there no instance at all that could be placed on?"""
        if not none:
            self._empty_since_s = None
        elif self._empty_since_s is None:
            self._empty_since_s = now_s

    def expire(self, now_s: float) -> dict[str, Unavailable]:
        """Takes out all whose time is up: request id -> what to tell its client, in order of arrival here."""
        over: dict[str, Unavailable] = {}
        for request_id, entry in self._entries.items():
            if now_s >= entry.deadline_s:
                waited_s = now_s - entry.queued_s
                over[request_id] = DeadlinePassed(f"not served within {waited_s:.1f} s", retry_after_s=_RETRY_S[0])
            elif now_s >= self._no_instance_until_s(entry):
                wait_s = self._config.no_instance_wait_s
                over[request_id] = Unavailable(f"no instance for {wait_s:g} s", retry_after_s=_RETRY_UNKNOWN_S)
        for request_id in over:
            self._depart(request_id, now_s)
        return over

    def next_expiry_s(self) -> float:
        """When `expire` will have something to do; +inf if never."""
        times = (min(e.deadline_s, self._no_instance_until_s(e)) for e in self._entries.values())
        return min(times, default=float("inf"))

    def __len__(self) -> int:
        """Requests here, queued or placed."""
        return len(self._entries)

    @property
    def queued_requests(self) -> int:
        return len(self._order)

    @property
    def tokens(self) -> int:
        """Context tokens of all requests here."""
        return self._tokens

    def check(self) -> None:
        assert self._placed == sorted(e.place for e in self._entries.values() if e.placed)
        assert self._tokens == sum(e.request.context_tokens for e in self._entries.values())
        queued = {i for i, e in self._entries.items() if not e.placed}
        assert len(self._order) == len(queued) and {request.request_id for request in self._order} == queued

    def _refuse_if_full(self, request: RouteRequest, now_s: float) -> None:
        config = self._config
        over_requests = len(self._entries) + 1 - config.max_requests
        over_tokens = self._tokens + request.context_tokens - config.max_queued_tokens
        if over_requests <= 0 and over_tokens <= 0:
            return
        raise Overloaded(
            f"queue full: {len(self._entries)} requests (limit {config.max_requests}), {self._tokens} tokens "
            f"(limit {config.max_queued_tokens}), given 1 request of {request.context_tokens} tokens",
            retry_after_s=self._retry_after_s(over_requests, over_tokens, now_s),
        )

    def _refuse_if_late(self, request: RouteRequest, deadline_s: float, now_s: float) -> None:
        wait_s = self._forecast.wait_s(self._ahead(request), now_s)
        if wait_s is not None and now_s + wait_s > deadline_s:
            over_s = now_s + wait_s - deadline_s
            raise Overloaded(
                f"its first token would come in about {wait_s:.1f} s, {over_s:.1f} s past its deadline",
                retry_after_s=min(max(over_s, _RETRY_S[0]), _RETRY_S[1]),
            )

    def _retry_after_s(self, over_requests: int, over_tokens: int, now_s: float) -> float:
        """Until that much has left, at the rate of the last seconds."""
        recent = [(left_s, tokens) for left_s, tokens in self._departures if now_s - left_s <= _RATE_WINDOW_S]
        if not recent:
            return _RETRY_UNKNOWN_S
        span_s = max(now_s - recent[0][0], 1.0)
        left_tokens = max(sum(tokens for _, tokens in recent), 1)
        wait_s = max(over_requests / len(recent), over_tokens / left_tokens) * span_s
        return min(max(wait_s, _RETRY_S[0]), _RETRY_S[1])

    def _no_instance_until_s(self, entry: _Entry) -> float:
        if entry.placed or self._empty_since_s is None:
            return float("inf")
        return max(self._empty_since_s, entry.queued_s) + self._config.no_instance_wait_s

    def _enter(self, request: RouteRequest, deadline_s: float, now_s: float) -> None:
        self._serial += 1
        place = self._place(request)
        self._entries[request.request_id] = _Entry(request, place, now_s, deadline_s, self._starts)
        self._order.add(place, request)
        self._tokens += request.context_tokens

    def _depart(self, request_id: str, now_s: float) -> bool:
        entry = self._entries.get(request_id)
        if entry is None:
            return False
        self._remove(entry)
        self._departures.append((now_s, entry.request.context_tokens))
        return True

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.request.request_id]
        self._tokens -= entry.request.context_tokens
        if entry.placed:
            del self._placed[bisect_left(self._placed, entry.place)]
        else:
            self._order.remove(entry.place, entry.request)

    def _deadline_s(self, request: RouteRequest) -> float:
        named = request.deadline_s != float("inf")
        return request.deadline_s if named else request.arrived_s + self._config.default_deadline_s

    def _place(self, request: RouteRequest) -> Place:
        """Due as when it came, however often it comes back."""
        early_s = 0.0 if request.began_s is None else request.arrived_s - request.began_s
        return Place(request.priority, self._deadline_s(request) - early_s, self._serial)

    def _ahead(self, request: RouteRequest) -> int:
        """Those of its class or a higher one that have a place, and those that would get one before it."""
        placed = bisect_left(self._placed, Place(request.priority + 1, float("-inf"), 0))
        return placed + self._order.ahead(self._place(request), request.tenant)


__all__ = ["AdmissionQueue"]

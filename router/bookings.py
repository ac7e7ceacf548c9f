"""Requests that were sent to an instance and that its own reports do not count yet.

A booking is made when a place is chosen, so that the next choice already sees it. It must end exactly when a report
includes the request: earlier, and the load is lost for a while and a burst herds onto one instance; later, and it
counts twice. The rule:

  BOOKED        counts as one request and `tokens` of prefill
  ACKNOWLEDGED  the instance said that it has it: still counts, until the next report is observed
  STARTED       its first token came: its prefill is over (0 tokens), counts as one request until the next report is
                observed
  gone          reported, finished, or its instance left

Within one report, call `acknowledged` (whom its load includes) and `first_token` before `observe`.

That is exact however long a step takes. For a source of reports that acknowledges nothing, `settle_s` may be finite:
the first report observed at least `settle_s` + two steps after the booking is then believed to include it. `settle_s`
covers the round trip, two steps the one that it arrives in and the one that takes it up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Stage(Enum):
    BOOKED = "booked"
    ACKNOWLEDGED = "acknowledged"
    STARTED = "started"


@dataclass(slots=True)
class Booking:
    instance: str
    tokens: int
    booked_s: float
    stage: Stage = Stage.BOOKED


@dataclass(slots=True)
class _Mine:
    """The bookings of one instance and the sum of their tokens."""

    bookings: dict[str, Booking] = field(default_factory=dict)
    tokens: int = 0


_NONE = _Mine()


class Bookings:
    """Sole owner of all bookings of one view. `started` and `drop` return the instance whose sums changed, or None."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._by_request: dict[str, Booking] = {}
        self._by_instance: dict[str, _Mine] = {}

    def book(self, request_id: str, instance: str, tokens: int, now_s: float) -> None:
        """The caller has dropped an earlier booking of this request."""
        assert request_id not in self._by_request, request_id
        booking = self._by_request[request_id] = Booking(instance, tokens, now_s)
        mine = self._by_instance.setdefault(instance, _Mine())
        mine.bookings[request_id] = booking
        mine.tokens += tokens

    def acknowledged(self, request_id: str) -> None:
        booking = self._by_request.get(request_id)
        if booking is not None and booking.stage is Stage.BOOKED:
            booking.stage = Stage.ACKNOWLEDGED

    def started(self, request_id: str) -> str | None:
        booking = self._by_request.get(request_id)
        if booking is None:
            return None
        self._by_instance[booking.instance].tokens -= booking.tokens
        booking.stage, booking.tokens = Stage.STARTED, 0
        return booking.instance

    def reported(self, instance: str, step_s: float, now_s: float) -> None:
        """A report of this instance was observed: drop what it includes."""
        mine = self._by_instance.get(instance)
        if mine is None:
            return
        believed_s = now_s - self._settle_s - 2 * step_s
        included = [r for r, b in mine.bookings.items() if b.stage is not Stage.BOOKED or b.booked_s <= believed_s]
        for request_id in included:
            self.drop(request_id)

    def drop(self, request_id: str) -> str | None:
        booking = self._by_request.pop(request_id, None)
        if booking is None:
            return None
        mine = self._by_instance[booking.instance]
        del mine.bookings[request_id]
        mine.tokens -= booking.tokens
        if not mine.bookings:
            del self._by_instance[booking.instance]
        return booking.instance

    def leave(self, instance: str) -> None:
        for request_id in self._by_instance.pop(instance, _NONE).bookings:
            del self._by_request[request_id]

    def sums(self, instance: str) -> tuple[int, int]:
        """(requests, prefill tokens) booked there."""
        mine = self._by_instance.get(instance, _NONE)
        return len(mine.bookings), mine.tokens

    def __len__(self) -> int:
        return len(self._by_request)

    def check(self) -> None:
        flat = {r: b for mine in self._by_instance.values() for r, b in mine.bookings.items()}
        assert flat == self._by_request
        for name, mine in self._by_instance.items():
            assert mine.bookings, "an instance without bookings must have no entry"
            assert all(b.instance == name and b.tokens >= 0 for b in mine.bookings.values()), name
            assert mine.tokens == sum(b.tokens for b in mine.bookings.values()), name


__all__ = ["Booking", "Bookings", "Stage"]

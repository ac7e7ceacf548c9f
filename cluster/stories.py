"""What a frontend remembers of where its requests were and why, for `shoal explain`. Owns a bounded record."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from shoal.cluster.journal import Move, Ticket
from shoal.router.contract import Placement

KEPT_REQUESTS = 4096
KEPT_DECISIONS = 64


@dataclass(frozen=True, slots=True)
class Stay:
    """One life of a request on one instance. `placement` where the router chose it, `move` where it came by one."""

    instance: str
    epoch: int
    began_s: float
    placement: Placement | None = None
    move: Move | None = None

    @property
    def why(self) -> str:
        if self.move is None:
            return "placed" if self.epoch == 1 else "placed again: its instance was lost"
        return f"went back from {self.move.target}" if self.move.resubmitted else f"moved: {self.move.reason}"


class Stories:
    """The newest requests only, ended ones included."""

    def __init__(self, kept: int = KEPT_REQUESTS) -> None:
        self._kept = kept
        self._stays: OrderedDict[str, list[Stay]] = OrderedDict()
        self._decisions: deque[tuple[str, Placement]] = deque(maxlen=KEPT_DECISIONS)
        self.count = 0  # of decisions ever made

    def placed(self, request_id: str, placement: Placement, epoch: int, now_s: float) -> None:
        self._add(request_id, Stay(placement.instance, epoch, now_s, placement=placement))
        self._decisions.append((request_id, placement))
        self.count += 1

    def since(self, count: int) -> list[tuple[str, Placement]]:
        """Decisions after the first `count` ones; the newest KEPT_DECISIONS at most."""
        news = min(self.count - count, len(self._decisions))
        return list(self._decisions)[len(self._decisions) - news :]

    def moved(self, ticket: Ticket, instance: str, now_s: float) -> None:
        """Its newest move brought it there, or back."""
        self._add(ticket.request_id, Stay(instance, ticket.epoch, now_s, move=ticket.moves[-1]))

    def _add(self, request_id: str, stay: Stay) -> None:
        self._stays.setdefault(request_id, []).append(stay)
        if len(self._stays) > self._kept:
            self._stays.popitem(last=False)

    def find(self, text: str) -> dict[str, list[Stay]]:
        """The request of this id, or all whose id holds this text."""
        if text in self._stays:
            return {text: self._stays[text]}
        return {request_id: stays for request_id, stays in self._stays.items() if text in request_id}


__all__ = ["Stay", "Stories"]

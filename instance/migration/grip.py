"""What one departing request holds of its engine: pinned blocks, and whether it is parked. On the step thread only."""

from __future__ import annotations

from shoal.instance.mover import Mover, Phase, Pin, RequestState, Sight

ALL = 1 << 30


class Grip:
    """`pins`: to be given back by `unpin`; the last one is that of the present round. May be read by the loop once the
    act that made it has answered.
    """

    def __init__(self, mover: Mover, engine_id: str) -> None:
        self.mover, self.engine_id = mover, engine_id
        self.pins: list[Pin] = []
        self.parked = False
        self.rest: tuple[RequestState, Pin] | None = None

    def look(self, first: int) -> tuple[Sight, int]:
        """Its engine's sight of it, and how many sealed blocks from `first` on are pinned now, in place of the last."""
        sight = self.mover.look(self.engine_id)
        self.unpin()
        pin = self.mover.pin(self.engine_id, first, ALL)
        self.pins.append(pin)
        return sight, pin.blocks

    def follow(self, first: int, park_blocks: int) -> tuple[Sight, int]:
        """As `look`; `parked` if it has its first token now, and at most so many blocks are pinned."""
        sight, pinned = self.look(first)
        return (is_at_first_token(sight, pinned, park_blocks) and self.park(first)) or (sight, pinned)

    def unpin(self) -> None:
        while self.pins:
            self.mover.unpin(self.pins.pop())

    def park(self, first: int) -> tuple[Sight, int] | None:
        """As `look`, of the parked request. None: its tokens are in flight, ask again. All that a pause needs is taken
        at once into `rest`, state and unsealed block: to ask again would cost a step of the others.
        """
        if not self.parked and not self.mover.park(self.engine_id):
            return None
        self.parked = True
        sight, sealed = self.look(first)
        if sight.computed_tokens:
            tail = self.mover.pin_tail(self.engine_id, first + sealed)
            self.pins.insert(0, tail)
            self.rest = self.mover.take_state(self.engine_id), tail
        return sight, sealed

    def unpark(self) -> None:
        if self.parked:
            self.parked = False
            self.mover.unpark(self.engine_id)

    def release(self) -> None:
        self.parked = False
        self.mover.release(self.engine_id)


def is_at_first_token(sight: Sight, pinned: int, park_blocks: int) -> bool:
    """A followed request may be parked."""
    runs = sight.phase is Phase.RUNNING and not sight.unmovable
    return runs and not sight.computes_prompt and pinned <= park_blocks


__all__ = ["Grip", "is_at_first_token"]

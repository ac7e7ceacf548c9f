"""What the step model holds for other engines: blocks that are read for one, and requests on their way from one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from shoal.instance.model_blocks import BlockTables
from shoal.instance.model_cache import Holding
from shoal.instance.model_request import ModelRequest, State


class Guests:
    """Sole owner of the pins, and of the list of leased requests."""

    def __init__(self, blocks: BlockTables) -> None:
        self._blocks = blocks
        self.leased: list[ModelRequest] = []
        self.pins: list[Holding] = []

    def pin(self, keys: Iterable[Hashable]) -> Holding:
        """Keeps cached blocks in place while they are read; to be given back by `unpin`."""
        holding = self._blocks.pin(keys)
        self.pins.append(holding)
        return holding

    def unpin(self, holding: Holding) -> None:
        self._blocks.unpin(holding)
        self.pins = [pin for pin in self.pins if pin is not holding]

    def lease(self, request: ModelRequest, tokens: int) -> int | None:
        """Room for `tokens` tokens of a request that is on its way. Returns how many of them are cached; None: no room.
        Ended by the model's `hold` or `remove`.
        """
        hit = self._blocks.hit(request, tokens)
        if not self._blocks.fits(request, tokens, hit):
            return None
        request.move(State.LEASED)
        self.leased.append(request)
        self._blocks.reserve(request, tokens, hit)
        return hit

    def grow(self, request: ModelRequest, tokens: int) -> bool:
        """Room for `tokens` tokens of a leased one. False: there is none."""
        missing = self._blocks.missing(request, tokens)
        if missing > self._blocks.free or tokens >= request.limit_tokens:
            return False
        if missing > 0:
            self._blocks.grow(request, tokens)
        return True

    def seal(self, request: ModelRequest, tokens: int) -> None:
        """The first `tokens` tokens of a leased one have their KV here by now."""
        self._blocks.seal(request, tokens)

    def install(self, keys: Iterable[Hashable]) -> int:
        """Blocks that came from elsewhere enter the prefix cache. Returns how many were new."""
        return self._blocks.install(keys)


__all__ = ["Guests"]

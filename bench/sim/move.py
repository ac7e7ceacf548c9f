"""One live migration on the virtual clock: the production source's state machine, with its commands performed on two
step models and a link.

The shell that `instance/migration/` is in production, without bytes and without faults: nobody dies here, so the
machine's deadlines never pass. A copy takes the two instances' links; that it slows their batches is not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shoal.bench.sim.instance import SimInstance
from shoal.bench.sim.request import End, SimRequest
from shoal.instance.fake_mover import sight_of
from shoal.instance.migration import source as words
from shoal.instance.migration.grip import is_at_first_token
from shoal.instance.migration.words import DISAGGREGATE, MOVED, Ending
from shoal.instance.model_request import ModelRequest, State
from shoal.router.board import Order

if TYPE_CHECKING:
    from shoal.bench.sim.moves import Moves


class Move:
    """Owns its machine, and the lease at the target until that has taken over. `ended` is told once."""

    def __init__(
        self, moves: Moves, order: Order, request: SimRequest, source: SimInstance, target: SimInstance
    ) -> None:
        self.moves, self.order, self.request, self.source, self.target = moves, order, request, source, target
        self.events, self.hop_s = moves.simulation.events, moves.simulation.hop_s
        self.machine = words.Source(moves.parcel_blocks, follow=order.reason == DISAGGREGATE)
        self.sent_bytes = 0
        self._model: ModelRequest | None = None  # at the source
        self._leased: ModelRequest | None = None  # at the target
        self._pinned = 0
        self._told = False

    def start(self, now_s: float) -> None:
        self._perform(self.machine.start(now_s), now_s)

    def _feed(self, event: words.Event, now_s: float) -> None:
        self._perform(self.machine.feed(event, now_s), now_s)
        ending = self.machine.ending
        if ending is not None and not self._told:
            self._told = True
            if ending not in MOVED and self._leased is not None:
                self.target.ask(now_s, self._drop)
            self.moves.ended(self, ending, now_s)

    def _perform(self, commands: Sequence[words.Command], now_s: float) -> None:
        for command in commands:
            match command:
                case words.Follow(first, wait_s, park_blocks):
                    ask = (first, park_blocks)
                    self.events.at(now_s + wait_s, lambda at_s, ask: self.source.ask(at_s, self._follow, ask), ask)
                case words.Look(first):
                    self.source.ask(now_s, self._look, first)
                case words.Open():
                    self.machine.named(self._pinned)
                    self._at_target(now_s + self.hop_s, self._open)
                case words.Send(positions):
                    arrives_s = self._carry(len(positions), now_s)
                    self._at_target(arrives_s, self._install, positions[-1] + 1)
                    self.events.at(arrives_s, lambda at_s, _: self._feed(words.Installed(), at_s), None)
                case words.Park(first):
                    self.source.ask(now_s, self._park, first)
                case words.Prepare(first):
                    assert self._model is not None
                    blocks = -(-self._model.computed // self.moves.block_size) - first
                    self._at_target(self._carry(blocks, now_s), self._hold)
                case words.HandOver(prepared):
                    self.events.at(now_s + self.hop_s, self._decide, prepared)
                case words.Unpark():
                    self.source.ask(now_s, self._unpark)
                case words.Release():
                    self.source.ask(now_s, self.source.release, self.request.request_id)

    def _at_target(self, at_s: float, act: Any, argument: Any = None) -> None:
        self.events.at(at_s, lambda now_s, _: self.target.ask(now_s, act, argument))

    def _carry(self, blocks: int, now_s: float) -> float:
        size_bytes = blocks * self.moves.block_bytes
        self.sent_bytes += size_bytes
        return self.moves.simulation.links.transfer(self.source.name, self.target.name, size_bytes, now_s)

    # -- at the source, between two steps

    def _here(self, now_s: float) -> ModelRequest | None:
        held = self.source.requests.get(self.request.request_id)
        if held is None:
            self._feed(words.Broken(Ending.SOURCE_GONE), now_s)
            return None
        self._model = held[1]
        return self._model

    def _look(self, now_s: float, first: int) -> None:
        model = self._here(now_s)
        if model is not None:
            sight = sight_of(model, self.moves.block_size)
            self._pinned = max(0, sight.sealed_blocks - first)
            self._feed(words.Seen(sight, self._pinned), now_s)

    def _follow(self, now_s: float, ask: tuple[int, int]) -> None:
        model, (first, park_blocks) = self._here(now_s), ask
        if model is None:
            return
        sight = sight_of(model, self.moves.block_size)
        pinned = max(0, sight.sealed_blocks - first)
        (self._park if is_at_first_token(sight, pinned, park_blocks) else self._look)(now_s, first)

    def _park(self, now_s: float, first: int) -> None:
        model = self._here(now_s)
        if model is not None:
            self.source.model.park(model)
            sight = sight_of(model, self.moves.block_size)
            self._pinned = max(0, sight.sealed_blocks - first)
            self._feed(words.Parked(sight, self._pinned), now_s)

    def _unpark(self, now_s: float, _: None) -> None:
        if self._model is not None and self._model.state is State.PARKED:
            self.source.model.unpark(self._model)

    # -- at the target, between two steps

    def _open(self, now_s: float, _: None) -> None:
        request, model, size = self.request, self._model, self.moves.block_size
        if model is None or model.state is State.DONE:
            return self._feed(words.Broken(Ending.SOURCE_GONE), now_s)
        leased = self.target.model_of(request, delivered=model.output_tokens)
        hit_tokens = self.target.model.lease(leased, (self._pinned + 1) * size)
        if hit_tokens is None:
            return self._feed(words.Declined("no room", no_room=True), now_s)
        self._leased = leased
        self._feed(words.Opened(tuple(range(min(hit_tokens // size, self._pinned), self._pinned))), now_s)

    def _install(self, now_s: float, blocks: int) -> None:
        self._grow(now_s, blocks * self.moves.block_size)

    def _hold(self, now_s: float, _: None) -> None:
        model, leased = self._model, self._leased
        assert model is not None
        if leased is None or model.state is not State.PARKED:
            return
        leased.tokens = model.tokens
        if self._grow(now_s, model.tokens):
            self.target.model.guests.seal(leased, model.computed)
            held = self.target.model.hold(leased, model.computed)
            self._feed(words.Prepared() if held else words.Declined("no run slot", no_room=True), now_s)

    def _grow(self, now_s: float, tokens: int) -> bool:
        if self._leased is None or self._leased.state is State.DONE:
            return False
        grown = self.target.model.guests.grow(self._leased, tokens)
        if not grown:
            self._feed(words.Declined("no room", no_room=True), now_s)
        return grown

    def _drop(self, now_s: float, _: None) -> None:
        if self._leased is not None:
            self.target.model.remove(self._leased)

    def _take_over(self, now_s: float, _: None) -> None:
        assert self._leased is not None
        self.target.take_over(now_s, self.request, self._leased)

    def _submit_again(self, now_s: float, delivered: int) -> None:
        """A preempted one goes on after what its client has; it is computed anew."""
        self.target.add(now_s, self.request, delivered)

    # -- at the owner

    def _decide(self, now_s: float, prepared: bool) -> None:
        request, model = self.request, self._model
        assert model is not None
        committed = request.end is End.PENDING and self.target.name in self.moves.simulation.instances
        if committed:
            frontend = self.moves.simulation.frontends[request.frontend]
            frontend.hand_over(request, self.target.name, model.tokens, model.tokens - 1 if prepared else 0, now_s)
            if prepared:
                self._at_target(now_s + self.hop_s, self._take_over)
            else:
                self._at_target(now_s + self.hop_s, self._submit_again, model.output_tokens)
        self.events.at(now_s + self.hop_s, lambda at_s, _: self._feed(words.Settled(committed), at_s))


__all__ = ["Move"]

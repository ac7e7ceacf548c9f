"""Many requests of all kinds on two engines, several on their way at any time, each judged by an undisturbed run.
Imports vLLM: only fixtures of tests marked `vllm` may import this.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field

from transformers import AutoTokenizer
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from shoal.instance.mover import Gone, NoRoom, Phase
from shoal.instance.seam import Submission
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.instance.vllm_seam import EngineCoreRequest, MsgpackDecoder
from shoal.proto.codec import FINISH_STOP
from tests.instance.sampling_kinds import KINDS
from tests.instance.vllm_drive import Drive, Heard
from tests.instance.vllm_pair import Move, Pair

GIVEN_UP = 0.1  # of all moves
BEFORE_ITS_FIRST_TOKEN = -1
LOGPROB_NOISE = 1e-3  # who else is in the batch changes the last bits of a float32


class Reader:
    """The client of one request, who ends it at its first stop string: engines know nothing of those."""

    def __init__(self, wire: bytes) -> None:
        request = MsgpackDecoder(EngineCoreRequest).decode(wire)
        tokenizer = AutoTokenizer.from_pretrained(ensure_tiny_model())
        self.text, self.read_tokens = IncrementalDetokenizer.from_new_request(tokenizer, request), 0

    def read(self, heard: Heard) -> bool:
        """True: it ends here, whatever else was said."""
        while self.read_tokens < len(heard.tokens):
            self.read_tokens += 1
            if stop := self.text.update([heard.tokens[self.read_tokens - 1]], False):
                del heard.tokens[self.read_tokens :]
                heard.finish, heard.stop = FINISH_STOP, stop
                return True
        return False


@dataclass(slots=True)
class Guest:
    """`due`: with so many output tokens it moves, still to come. `reader`: of one with stop strings."""

    kind: str
    wire: bytes
    prompt_tokens: int
    where: Drive
    engine_id: str
    heard: Heard
    due: list[int]
    reader: Reader | None = None
    moving: Move | None = None
    stages: Generator[str, None, None] | None = None
    gives_up_after: int = 1 << 30
    moved_at: list[int] = field(default_factory=list)

    def name(self) -> str:
        return f"{self.kind}, prompt {self.prompt_tokens}, moved at {self.moved_at}"


def difference(got: Heard, want: Heard) -> str:
    """Empty: there is none."""
    if got.tokens != want.tokens:
        pairs = itertools.zip_longest(got.tokens, want.tokens)
        return f"token {next(n for n, (mine, other) in enumerate(pairs) if mine != other)}"
    if got.end() != want.end():
        return f"end {got.end()} and not {want.end()}"
    if got.logprob_ids != want.logprob_ids:
        return "ids of logprobs"
    mine, other = itertools.chain(*got.logprobs), itertools.chain(*want.logprobs)
    noise = max((abs(a - b) for a, b in zip(mine, other, strict=True)), default=0.0)
    return f"logprobs by {noise}" if noise > LOGPROB_NOISE else ""


class Storm:
    """Each engine has `crowd` requests or more, `moves_at_once` are on their way. Deterministic but for the copies'
    speed.
    """

    def __init__(
        self,
        pair: Pair,
        seed: int,
        *,
        crowd: int = 10,
        moves_at_once: int = 6,
        longest: int = 12_000,
        longest_output: int = 100,
    ) -> None:
        self.pair, self.rng = pair, random.Random(seed)
        self.crowd, self.moves_at_once = crowd, moves_at_once
        self.longest, self.longest_output = longest, longest_output
        self.kinds = itertools.cycle(KINDS)
        self.guests: list[Guest] = []
        self.count: Counter[str] = Counter()

    def run(self, moves: int) -> None:
        while self.count["committed"] + self.count["moved while waiting"] < moves:
            self._fill()
            self._depart()
            self._step()
        while self.pair.busy() or any(guest.moving for guest in self.guests):
            self._step()

    def _step(self) -> None:
        self.pair.step()
        for guest in self.guests:
            if guest.reader is not None and guest.heard.finish is None and guest.reader.read(guest.heard):
                guest.where.engine.abort([guest.engine_id])
        self._advance()

    # -- who is there

    def _here(self, drive: Drive) -> list[Guest]:
        return [guest for guest in self.guests if guest.where is drive and guest.heard.finish is None]

    def _fill(self) -> None:
        for drive in (self.pair.a, self.pair.b):
            for _ in range(len(self._here(drive)), self.crowd):
                self._arrive(drive)

    def _arrive(self, drive: Drive) -> None:
        kind, seed = next(self.kinds), self.rng.randrange(1 << 20)
        tokens = int(math.exp(self.rng.uniform(math.log(64), math.log(self.longest))))
        prompt, new_tokens = (
            [self.rng.randrange(256) for _ in range(tokens)],
            self.rng.randint(30, self.longest_output),
        )
        children = 2 if self.rng.random() < 0.1 else 1
        for child in range(children):  # as a frontend makes the children of n = 2
            seeded = {"seed": seed + child} if "seed" in KINDS[kind] else {}
            wire = drive.wire_of_kind(kind, prompt, max_tokens=new_tokens, **seeded)
            points = [BEFORE_ITS_FIRST_TOKEN, *range(new_tokens - 4)]
            due = sorted(self.rng.sample(points, self.rng.choice([2, 3, 5, 8])))
            if self.rng.random() < 0.15:
                due[0] = BEFORE_ITS_FIRST_TOKEN
            engine_id = drive.start(wire)
            reader = Reader(wire) if "stop" in KINDS[kind] else None
            self.guests.append(Guest(kind, wire, tokens, drive, engine_id, drive.heard[engine_id], due, reader))

    # -- moves

    def _depart(self) -> None:
        under_way = sum(guest.moving is not None for guest in self.guests)
        ready = [guest for guest in self.guests if self._is_due(guest)]
        self.rng.shuffle(ready)
        for guest in ready[: self.moves_at_once - under_way]:
            self._start_move(guest)

    def _is_due(self, guest: Guest) -> bool:
        if guest.moving or guest.heard.finish is not None or not guest.due:
            return False
        return len(guest.heard.tokens) >= guest.due[0]

    def _start_move(self, guest: Guest) -> None:
        mover = guest.where.engine.mover
        sight = mover.look(guest.engine_id)
        if sight.phase is Phase.WAITING:
            if not sight.computed_tokens and self.rng.random() < 0.5:  # else it is tried again when it runs
                self._move_waiting(guest)
        elif not sight.unmovable and sight.computed_tokens:
            guest.due.pop(0)
            stages = self.rng.choice([1, 2, 3]) if guest.heard.tokens else 1  # it may be faster than its prompt then
            guest.moving = self.pair.move(guest.where, guest.engine_id, guest.wire, stages=stages, parcel_blocks=32)
            guest.stages = iter(guest.moving)
            if self.rng.random() < GIVEN_UP:
                guest.gives_up_after = self.rng.randrange(1, 8)

    def _move_waiting(self, guest: Guest) -> None:
        """No KV data to copy: its owner submits it anew elsewhere."""
        guest.due.pop(0)
        source, target = guest.where, self.pair.other(guest.where)
        assert source.engine.mover.park(guest.engine_id)
        request_id, _, epoch = guest.engine_id.rpartition("@")
        submission = Submission(request_id, int(epoch) + 1, guest.wire, tuple(guest.heard.tokens))
        source.engine.mover.release(guest.engine_id)
        guest.where, guest.engine_id = target, submission.engine_id
        target.heard[guest.engine_id] = guest.heard
        target.add(target.engine.prepare(submission))
        guest.moved_at.append(len(guest.heard.tokens))
        self.count["moved while waiting"] += 1

    def _advance(self) -> None:
        for guest in self.guests:
            if guest.moving is not None:
                self._advance_one(guest, guest.moving)

    def _advance_one(self, guest: Guest, move: Move) -> None:
        assert guest.stages is not None
        guest.gives_up_after -= 1
        ending = "given up" if guest.gives_up_after <= 0 else self._one_stage(guest, guest.stages)
        if not ending:
            return
        guest.moving, guest.gives_up_after = None, 1 << 30
        self.count[ending] += 1
        if ending != "committed":
            guest.stages.close()
            move.undo()
            return
        assert move.state is not None
        if not move.state.output:
            self.count["committed within its prompt"] += 1
        guest.moved_at.append(len(move.state.output))
        guest.engine_id, guest.where = move.commit(), move.target

    def _one_stage(self, guest: Guest, stages: Generator[str, None, None]) -> str:
        """Its ending, or empty."""
        try:
            if guest.where.engine.mover.look(guest.engine_id).phase is Phase.WAITING:
                return "preempted"
            return "" if next(stages, "") else "committed"
        except Gone:
            return "ended meanwhile"
        except NoRoom:
            return "no room"

    # -- judgement

    def differences(self) -> list[str]:
        """Runs all of it again, undisturbed."""
        found = []
        for drive in (self.pair.a, self.pair.b):
            assert drive.engine.call("reset_prefix_cache", {}) is True
        for first in range(0, len(self.guests), 2 * self.crowd):
            some = self.guests[first : first + 2 * self.crowd]
            started = [self.pair.a.start(guest.wire) for guest in some]
            self.pair.finish()
            for guest, engine_id in zip(some, started, strict=True):
                alone = self.pair.a.heard[engine_id]
                if guest.reader is not None:
                    Reader(guest.wire).read(alone)
                if said := difference(guest.heard, alone):
                    found.append(f"{guest.name()}: {said}")
        return found

    def summary(self) -> str:
        moved = Counter(len(guest.moved_at) for guest in self.guests)
        kinds = Counter(guest.kind for guest in self.guests for _ in guest.moved_at)
        return f"{dict(self.count)}; requests by moves {dict(sorted(moved.items()))}; moves by kind {dict(kinds)}"


__all__ = ["Storm", "difference"]

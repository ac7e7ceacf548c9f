"""What the engine's side of the pool decides: which blocks are worth saving, and whether to fetch or to compute. Pure.

A block is saved at first sight while saved blocks are read again often enough to pay for it; otherwise only once its
content was needed a second time. Fetching is chosen by measured bandwidth against measured step times.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from shoal.instance.step_time import LinearStepTime, StepWork

MIN_REUSE = 0.05  # reads per saved block, below which a first sight is not enough
TRIAL_BLOCKS = 512  # so many are saved before the rate means anything
WEIGHT = 0.2  # of the newest measurement
MARGIN = 0.9  # a fetch must be that much cheaper: its price has the longer tail


@dataclass(slots=True)
class Sighting:
    salt: str
    uses: int = 0
    saved: bool = False


class Sightings:
    """Owns what is known of the engine's blocks, by hash; bounded, the longest unseen is forgotten."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.known: OrderedDict[bytes, Sighting] = OrderedDict()
        self.saved = self.reused = 0

    def see(self, block_hash: bytes, salt: str) -> Sighting:
        sighting = self.known.setdefault(block_hash, Sighting(salt))
        sighting.uses += 1
        self.known.move_to_end(block_hash)
        if len(self.known) > self.capacity:
            self.known.popitem(last=False)
        return sighting

    def is_worth_saving(self, sighting: Sighting) -> bool:
        pays = self.saved < TRIAL_BLOCKS or self.reused >= MIN_REUSE * self.saved
        return not sighting.saved and (pays or sighting.uses > 1)


@dataclass(slots=True)
class Speeds:
    """Kept up to date while running; each is an exponential mean of what was seen.

    A step takes a_ms + b_ms per prefill token; a load takes overhead_ms + its bytes over bytes_per_ms.
    """

    a_ms: float = 5.0
    b_ms: float = 0.05
    overhead_ms: float = 2.0
    bytes_per_ms: float = 1 << 20

    def saw_step(self, step_ms: float, prefill_tokens: int) -> None:
        if prefill_tokens == 0:
            self.a_ms += WEIGHT * (step_ms - self.a_ms)
        elif prefill_tokens >= 64:  # below that a's noise would drown it
            self.b_ms += WEIGHT * (max(0.0, step_ms - self.a_ms) / prefill_tokens - self.b_ms)

    def saw_load(self, took_ms: float, moved_bytes: int) -> None:
        """A small load tells the overhead, a large one the bandwidth."""
        transfer_ms = moved_bytes / self.bytes_per_ms
        if transfer_ms < self.overhead_ms:
            self.overhead_ms += WEIGHT * (max(0.0, took_ms - transfer_ms) - self.overhead_ms)
        elif took_ms > self.overhead_ms:
            self.bytes_per_ms += WEIGHT * (moved_bytes / (took_ms - self.overhead_ms) - self.bytes_per_ms)

    def fetch_ms(self, fetch_bytes: int, *, queued_bytes: int) -> float:
        return self.overhead_ms + (fetch_bytes + queued_bytes) / self.bytes_per_ms

    def compute_ms(self, tokens: int, *, budget_tokens: int) -> float:
        """Whole steps of at most `budget_tokens`. Attention over the context is left out, so this errs to computing."""
        model = LinearStepTime(self.a_ms, self.b_ms, 0.0, 0.0, 0.0)
        full, rest = divmod(tokens, budget_tokens)
        whole_ms = full * model.step_ms(StepWork(prefill_tokens=budget_tokens))
        return whole_ms + (model.step_ms(StepWork(prefill_tokens=rest)) if rest else 0.0)


def is_worth_fetching(speeds: Speeds, *, tokens: int, fetch_bytes: int, queued_bytes: int, budget_tokens: int) -> bool:
    """`tokens`: what the blocks would spare the engine. `queued_bytes`: loads ahead of this one."""
    fetch_ms = speeds.fetch_ms(fetch_bytes, queued_bytes=queued_bytes)
    return fetch_ms < MARGIN * speeds.compute_ms(tokens, budget_tokens=budget_tokens)


__all__ = ["Sighting", "Sightings", "Speeds", "is_worth_fetching"]

"""One request of the fake engine: its tokens, how they end, and its place in the step model."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.instance.fake_tokens import FakeSampling
from shoal.instance.model_request import ModelRequest

End = tuple[int, int | None]  # finish code, stop reason


@dataclass(slots=True)
class FakeRequest:
    """`tokens` = prompt and output so far; the block keys read it."""

    engine_id: str
    tokens: list[int]
    digest: int
    sampling: FakeSampling
    poisoned: bool
    model: ModelRequest | None = None
    ended: End | None = None
    """Set where the delivered tokens are a whole output already; then there is no `model`."""


__all__ = ["End", "FakeRequest"]

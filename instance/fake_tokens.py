"""What the fake engine says: token n is a function of (prompt, n) and of nothing else.

So any instance continues any request exactly, and a test knows every stream beforehand (`reply`). Where it ends is a
function of tokens and sampling parameters: the few that matter here are in `FakeSampling`, the others are ignored.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from shoal.proto.codec import FINISH_STOP

_WORD = (1 << 64) - 1


class FakeSampling(msgspec.Struct, frozen=True):
    """The part of vLLM's SamplingParams that decides about an end, with vLLM's defaults: it omits them on the wire."""

    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    eos_token_id: int | None = msgspec.field(default=None, name="_eos_token_id")

    def end(self, token: int, output_tokens: int) -> tuple[int, int | None] | None:
        """(finish code, stop reason) where this token, the `output_tokens`-th, ends the output by its content."""
        if output_tokens < self.min_tokens:
            return None
        if token == self.eos_token_id and not self.ignore_eos:
            return FINISH_STOP, None
        if token in (self.stop_token_ids or ()):
            return FINISH_STOP, token
        return None


def prompt_digest(prompt: Sequence[int]) -> int:
    return int.from_bytes(blake2b(array("q", prompt).tobytes(), digest_size=8).digest(), "little")


def token_at(digest: int, index: int, vocabulary: int) -> int:
    """The output token of that index: the mixing steps of splitmix64 on prompt digest and index."""
    z = (digest + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return (z ^ (z >> 31)) % vocabulary


def reply(prompt: Sequence[int], tokens: int, vocabulary: int) -> list[int]:
    """The first output tokens to this prompt, on any fake engine of that vocabulary."""
    digest = prompt_digest(prompt)
    return [token_at(digest, index, vocabulary) for index in range(tokens)]


__all__ = ["FakeSampling", "prompt_digest", "reply", "token_at"]

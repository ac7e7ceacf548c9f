"""Going on with a stream at a token index: what of a replayed output the client already has.

The replay starts at index 0 and arrives in other pieces than the first time. Tokens are cut by counting. Text is cut by
what the client was given with exactly its first tokens, which depends on those tokens alone and not on how they were
bundled: vLLM detokenizes token by token and holds back as many characters as the longest stop string may still claim.
So text joined over a resumption equals the undisturbed text, in the middle of a multi-byte character and of a possible
stop string too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.proto.errors import InvalidArgument

# These come with the last token, so whoever has that token has the end of the text; an abort or error may come after
# it.
ENDS_WITH_A_TOKEN = frozenset({"stop", "length", "repetition"})


class NextIndexBeyond(InvalidArgument):
    """The client claims tokens that this request never made."""

    grpc_code = "OUT_OF_RANGE"

    def __init__(self, made: int, given: int) -> None:
        super().__init__("next_index", limit=f"at most {made}, the tokens of this request", given=given)


class ResumeCut:
    """Sole owner of how much of one replay was swallowed. `released_chars`: see EnginePort."""

    def __init__(self, next_index: int, max_tokens: int, released_chars: Callable[[Sequence[int]], int]) -> None:
        self._next_index, self._max_tokens = next_index, max_tokens
        self._released_chars = released_chars
        self._head: list[int] = []  # the tokens that the client has, as far as they were replayed
        self._text = ""  # replayed while the head was incomplete
        self._open = next_index == 0

    def cut(self, token_ids: Sequence[int], text: str, finish_reason: str | None) -> tuple[list[int], str] | None:
        """The new part of one piece of the replay; None: the client has all of it and more is to come."""
        if self._open:
            return list(token_ids), text
        if self._next_index > self._max_tokens:
            raise NextIndexBeyond(self._max_tokens, self._next_index)
        missing = self._next_index - len(self._head)
        self._head += token_ids[:missing]
        self._text += text
        if len(self._head) < self._next_index:
            if finish_reason is not None:
                raise NextIndexBeyond(len(self._head), self._next_index)
            return None
        rest = list(token_ids[missing:])
        if not rest and finish_reason is None:
            return None
        self._open = True
        if missing and not rest and finish_reason in ENDS_WITH_A_TOKEN:
            return [], ""
        return rest, self._text[self._released_chars(self._head) :]


__all__ = ["NextIndexBeyond", "ResumeCut"]

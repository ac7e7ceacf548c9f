import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.grpc_api.resume import NextIndexBeyond, ResumeCut

TEXT = "naïve 🐟 shoals"


class Bytes:
    """A model of vLLM's detokenizer: a token is a byte, a character shows with its last byte, `held` of them later."""

    def __init__(self, data, held):
        self.data, self.held = data, held

    def released(self, count):
        return max(0, len(self.data[:count].decode(errors="ignore")) - self.held)

    def pieces(self, cuts, finish="length"):
        """The output in pieces that end at `cuts`, as vLLM would bundle it."""
        text, total = self.data.decode(errors="ignore"), len(self.data)
        ends = sorted({c for c in cuts if 0 < c < total} | {total})
        for start, end in itertools.pairwise([0, *ends]):
            last = end == total
            shown = text[self.released(start) : len(text) if last else self.released(end)]
            yield list(self.data[start:end]), shown, finish if last else None


def resumed(model, next_index, cuts, finish="length"):
    cut = ResumeCut(next_index, len(model.data), lambda head: model.released(len(head)))
    parts = [(cut.cut(*piece), piece[2]) for piece in model.pieces(cuts, finish)]
    parts = [(part, end) for part, end in parts if part is not None]
    tokens = [t for (ids, _), _ in parts for t in ids]
    return tokens, "".join(text for (_, text), _ in parts), [end for _, end in parts if end]


@given(
    data=st.text(min_size=1, max_size=12).map(str.encode),
    held=st.integers(0, 6),
    before=st.sets(st.integers(0, 60)),
    after=st.sets(st.integers(0, 60)),
    resume_at=st.integers(0, 60),
)
def test_tokens_and_text_join_exactly_however_either_run_was_bundled(data, held, before, after, resume_at):
    model = Bytes(data, held)
    pieces = list(model.pieces(before))
    got = pieces[: resume_at % len(pieces)]  # the client never saw the end, so it resumes
    tokens, text = [t for ids, _, _ in got for t in ids], "".join(shown for _, shown, _ in got)
    rest_tokens, rest_text, ends = resumed(model, len(tokens), after)
    assert tokens + rest_tokens == list(data)
    assert text + rest_text == data.decode()
    assert ends == ["length"]


def test_whoever_has_the_last_token_has_the_whole_text():
    model = Bytes(TEXT.encode(), held=5)
    assert resumed(model, len(model.data), [3]) == ([], "", ["length"])


def test_an_abort_after_the_last_token_still_brings_what_was_held_back():
    model = Bytes(TEXT.encode(), held=5)
    assert resumed(model, len(model.data), [3], finish="abort") == ([], TEXT[-5:], ["abort"])


def test_an_end_that_comes_without_a_token_brings_what_was_held_back():
    cut = ResumeCut(2, 9, lambda head: 1)
    assert cut.cut([1, 2], "a", None) is None
    assert cut.cut([], "bc", "stop") == ([], "bc")


@pytest.mark.parametrize("next_index", [6, 100])
def test_a_claim_beyond_the_end_is_refused(next_index):
    cut = ResumeCut(next_index, 16, len)
    with pytest.raises(NextIndexBeyond) as caught:
        cut.cut([1, 2, 3], "abc", None)
        cut.cut([4, 5], "de", "stop")
    assert caught.value.grpc_code == "OUT_OF_RANGE"
    assert caught.value.given == next_index

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.bench.openai_stream import Chunk, OpenAIStream
from shoal.proto.errors import BadMessage

STREAM = (
    b": comment\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\r\n\r\n'
    b'data: {"choices":[{"delta":{"content":""}}],"usage":{"prompt_tokens":3,"completion_tokens":3}}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":3}}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":2}}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts):
    bounds = [0, *sorted(cuts), len(STREAM)]
    stream = OpenAIStream()
    chunks = [chunk for start, end in pairwise(bounds) for chunk in stream.feed(STREAM[start:end])]
    assert [chunk.tokens for chunk in chunks] == [0, 1, 2, 0, 0]
    assert chunks[3].finish_reason == "stop"
    assert chunks[4] == Chunk(prompt_tokens=3, cached_tokens=2)
    assert stream.done


@given(st.binary(max_size=200))
def test_any_other_bytes_are_a_bad_message_or_nothing(data):
    with suppress(BadMessage):
        OpenAIStream().feed(b"data: " + data + b"\n")


def test_errors_inside_the_stream_are_seen():
    (chunk,) = OpenAIStream().feed(b'data: {"error":{"message":"gone","code":500}}\n')
    assert "gone" in chunk.error


def test_an_endless_event_is_refused(monkeypatch):
    monkeypatch.setattr("shoal.bench.openai_stream.MAX_EVENT_BYTES", 10)
    with pytest.raises(BadMessage):
        OpenAIStream().feed(b"data: 0123456789")

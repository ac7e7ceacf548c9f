"""The codec: bytes of a peer become a typed message or BadMessage."""

import os
import random

import msgspec
import pytest

from shoal.proto.codec import WireOutput, WireOutputs, WireRequest, decode, encode
from shoal.proto.errors import BadMessage

MUTATIONS = 2_000_000 if os.environ.get("SHOAL_NIGHTLY") else 20_000
REQUEST = WireRequest("r-1@2", [1, 2, 300, 70000], None, {"temperature": 0.5, "stop": ["x"]}, None, 1.5, None, "salt")
OUTPUTS = WireOutputs(
    1, [WireOutput("r-1@2", [7, 8]), WireOutput("é", [], finish_reason=1, stop_reason="x")], None, 2.0
)
MESSAGES = [(WireRequest, encode(REQUEST)), (WireOutputs, encode(OUTPUTS)), (WireOutput, encode(OUTPUTS.outputs[0]))]


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 1 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del changed[at : at + rng.randint(1, 8)]
            case _:
                start = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + 16]
    return bytes(changed)


def test_mutated_messages_raise_nothing_but_bad_message():
    rng = random.Random(1)
    refused = 0
    for i in range(MUTATIONS):
        kind, data = MESSAGES[i % len(MESSAGES)]
        try:
            assert isinstance(decode(kind, mutated(data, rng)), kind)
        except BadMessage as exc:
            refused += 1
            assert kind.__name__ in str(exc)
    assert refused > MUTATIONS // 2


@pytest.mark.parametrize("kind", [WireRequest, WireOutput, WireOutputs])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xa1\xff\x90",
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=["empty", "never-used-tag", "deep", "endless-array", "bad-utf8", "endless-map"],
)
def test_hostile_bytes_are_bad_messages(kind, data):
    with pytest.raises(BadMessage):
        decode(kind, data)


@pytest.mark.parametrize("message", [REQUEST, OUTPUTS, OUTPUTS.outputs[1]])
def test_what_is_encoded_comes_back(message):
    assert decode(type(message), encode(message)) == message


def test_positions_of_a_newer_peer_are_ignored():
    longer = encode([*msgspec.to_builtins(OUTPUTS.outputs[1]), None, None, None, {"new": 1}])
    assert decode(WireOutput, longer).request_id == "é"

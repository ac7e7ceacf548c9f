"""Whatever bit is flipped in a frame, its reader notices or nothing of what the frame says has changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.proto.errors import BadMessage
from shoal.proto.seal import check_seal, checked, is_damaged, seal
from shoal.proto.v1 import instance_pb2 as pb

SUBMIT = pb.Up(submit=pb.Submit(request_id="r", epoch=2, request=b"\x93\x01\x02", delivered=[7, 300], tenant="t"))
REPORT = pb.Down(
    report=pb.StepReport(step=9, outputs=b"\x91\x2a", epochs=[1], indexes=[4], load=pb.Load(running=1, step_ms=2.5))
)


@pytest.mark.parametrize("frame", [SUBMIT, REPORT], ids=["up", "down"])
def test_a_sealed_frame_passes_and_keeps_its_words(frame):
    sealed = seal(type(frame).FromString(frame.SerializeToString()))
    arrived = type(frame).FromString(sealed.SerializeToString())
    check_seal(arrived)
    check_seal(arrived)
    assert arrived.seal != 0
    arrived.seal = 0
    assert arrived == frame


def test_a_frame_without_a_seal_does_not_pass():
    with pytest.raises(BadMessage, match="not sealed"):
        check_seal(pb.Up())
    assert is_damaged(pb.Down())


@pytest.mark.parametrize("frame", [SUBMIT, REPORT], ids=["up", "down"])
def test_no_single_flipped_bit_changes_what_is_understood(frame):
    kind, whole = type(frame), seal(type(frame).FromString(frame.SerializeToString()))
    data = whole.SerializeToString()
    noticed = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            arrived = kind.FromString(bytes(damaged))
            check_seal(arrived)
        except Exception:
            noticed += 1
        else:
            assert arrived == whole
    assert noticed > 7.9 * len(data)


@given(st.binary(max_size=60))
def test_strangers_bytes_do_not_pass(data):
    try:
        frame = pb.Down.FromString(data)
    except Exception:
        return
    assert is_damaged(frame)


async def test_a_stream_ends_at_its_first_damaged_frame():
    async def frames():
        yield seal(pb.Up(abort=pb.Abort(request_ids=["a"])))
        yield pb.Up(abort=pb.Abort(request_ids=["b"]), seal=5)

    seen = []
    with pytest.raises(BadMessage):
        async for frame in checked(frames()):
            seen.append(frame)
    assert len(seen) == 1

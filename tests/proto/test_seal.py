"""Whatever bit is flipped in a frame, its reader notices or nothing of what the frame says has changed; and a frame
that is missing or comes twice is noticed at the next one.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.proto.errors import BadMessage
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb


def submit():
    return pb.Up(submit=pb.Submit(request_id="r", epoch=2, request=b"\x93\x01\x02", delivered=[7, 300], tenant="t"))


def report():
    load = pb.Load(running=1, step_ms=2.5)
    return pb.Down(report=pb.StepReport(step=9, outputs=b"\x91\x2a", epochs=[1], indexes=[4], load=load))


def sent(sealer, frame):
    sealer.seal(frame)
    return type(frame).FromString(frame.SerializeToString())


@pytest.mark.parametrize("make", [submit, report])
def test_frames_pass_in_their_order_and_keep_their_words(make):
    sealer, reader = Sealer(), SealReader()
    for number in (1, 2, 3):
        frame = sent(sealer, make())
        reader.check(frame)
        assert (frame.number, reader.count) == (number, number)
        frame.ClearField("number")
        frame.ClearField("seal")
        assert frame == make()


@pytest.mark.parametrize("arriving", [[1, 3], [1, 1], [2], [1, 2, 1], [1, 2, 2]])
def test_a_frame_that_is_missing_or_comes_again_is_noticed(arriving):
    sealer, reader = Sealer(), SealReader()
    frames = {number: sent(sealer, report()) for number in (1, 2, 3)}
    *good, bad = arriving
    for number in good:
        reader.check(frames[number])
    with pytest.raises(BadMessage, match="is due"):
        reader.check(frames[bad])


def test_a_frame_without_a_seal_does_not_pass():
    for frame in (pb.Up(), pb.Down(number=1)):
        with pytest.raises(BadMessage, match="not sealed"):
            SealReader().check(frame)


@pytest.mark.parametrize("make", [submit, report])
def test_no_single_flipped_bit_changes_what_is_understood(make):
    whole = make()
    data = sent(Sealer(), whole).SerializeToString()
    noticed = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            arrived = type(whole).FromString(bytes(damaged))
            SealReader().check(arrived)
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
    with pytest.raises(BadMessage):
        SealReader().check(frame)

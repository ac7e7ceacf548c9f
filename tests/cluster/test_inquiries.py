"""Whoever asks instances something is answered: by them, by the loss of the link, or by the end of its patience."""

import asyncio

import pytest

from shoal.cluster.inquiries import Inquiries
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import instance_pb2 as pb


class Line:
    """Stands for a Link: says what was sent on it."""

    def __init__(self, instance_id):
        self.instance_id, self.sent = instance_id, []

    def send(self, frame):
        self.sent.append(frame)


@pytest.fixture
def lines():
    return [Line("a"), Line("b"), Line("c")]


def adopted(epoch=0, key="k"):
    return pb.Adopted(resume_key=key, found=epoch > 0, epoch=epoch)


async def started(coroutine):
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def test_of_several_lives_of_a_request_the_latest_is_found(lines):
    inquiries = Inquiries()
    search = await started(inquiries.find_orphan(lines, "k", "t", 30.0))
    assert [line.sent[0].adopt for line in lines] == [pb.Adopt(resume_key="k", tenant="t")] * 3
    for line, epoch in zip(lines, (1, 3, 0), strict=True):
        assert not search.done()
        inquiries.on_adopted(line, adopted(epoch))
    assert await search == (lines[1], adopted(3))
    assert not inquiries.searches


async def test_a_lost_link_and_a_slow_one_hold_up_nobody(lines):
    inquiries = Inquiries()
    search = await started(inquiries.find_orphan(lines[:2], "k", "t", 30.0))
    inquiries.on_adopted(lines[0], adopted(2))
    inquiries.lose(lines[1])
    assert (await search)[0] is lines[0]
    late = await inquiries.find_orphan(lines[:1], "k", "t", 0.01)
    assert late is None and not inquiries.searches
    inquiries.on_adopted(lines[0], adopted(2))  # nobody asks any more


async def test_nobody_is_asked_twice_for_one_request_at_a_time(lines):
    inquiries = Inquiries()
    search = await started(inquiries.find_orphan(lines[:1], "k", "t", 30.0))
    assert await inquiries.find_orphan(lines, "k", "t", 30.0) is None
    assert await inquiries.find_orphan([], "other", "t", 30.0) is None
    inquiries.on_adopted(lines[0], adopted(0))
    assert await search is None


async def test_an_answer_of_a_line_that_is_gone_meanwhile_does_not_count(lines):
    """Its instance cannot be claimed from any more; another's earlier life can."""
    inquiries = Inquiries()
    search = await started(inquiries.find_orphan(lines, "k", "t", 30.0))
    inquiries.on_adopted(lines[0], adopted(2))
    inquiries.on_adopted(lines[1], adopted(1))
    inquiries.lose(lines[0])
    inquiries.on_adopted(lines[2], adopted(0))
    assert await search == (lines[1], adopted(1))


async def test_a_call_gathers_all_replies_in_order(lines):
    inquiries = Inquiries()
    call = await started(inquiries.call(lines[:2], "list_loras", "{}", 30.0))
    ids = [line.sent[0].call.call_id for line in lines[:2]]
    assert [line.sent[0].call.method for line in lines[:2]] == ["list_loras"] * 2
    inquiries.on_reply(pb.Reply(call_id=ids[1], result_json="[2]"))
    inquiries.on_reply(pb.Reply(call_id=ids[0], result_json="[1]"))
    inquiries.on_reply(pb.Reply(call_id=ids[0], result_json="[9]"))
    inquiries.on_reply(pb.Reply(call_id=99))
    assert await call == ["[1]", "[2]"]
    assert not inquiries.calls


async def test_a_call_fails_with_an_instances_error_or_its_loss(lines):
    inquiries = Inquiries()
    for fail in (
        lambda: inquiries.on_reply(pb.Reply(call_id=inquiries.last_call_id, error="no such adapter")),
        lambda: inquiries.lose(lines[1]),
    ):
        call = await started(inquiries.call(lines[:2], "add_lora", "{}", 30.0))
        fail()
        with pytest.raises(Unavailable, match=r"no such adapter|b is gone"):
            await call
    inquiries.lose(lines[0])
    assert not inquiries.calls


async def test_a_call_that_nobody_answers_ends_and_is_forgotten(lines):
    inquiries = Inquiries()
    with pytest.raises(Unavailable, match="a did not answer"):
        await inquiries.call(lines[:1], "add_lora", "{}", 0.01)
    assert not inquiries.calls
    assert await inquiries.call([], "add_lora", "{}", 0.01) == []

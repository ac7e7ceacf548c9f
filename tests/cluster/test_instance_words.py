"""What an instance says of itself is taken over whole, or refused as a bad message."""

import pytest

from shoal.cluster.instance_words import (
    RefusedByInstance,
    changes_of,
    check_outputs,
    info_of,
    load_of,
    refusal_of,
)
from shoal.proto.codec import WireOutput
from shoal.proto.errors import BadMessage, Unavailable
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import InstanceInfo, InstanceLoad, Role

SIZES = {"block_size": 4, "total_blocks": 8, "max_model_len": 16, "max_num_batched_tokens": 32, "max_num_seqs": 2}


def test_a_welcome_becomes_the_routers_facts():
    welcome = pb.Welcome(instance_id="i", role="decode", loras=["l"], **SIZES)
    assert info_of(welcome) == InstanceInfo("i", Role.DECODE, loras=frozenset({"l"}), **SIZES)


@pytest.mark.parametrize("change", [{"role": "boss"}, {"role": ""}, {"block_size": 0}, {"max_model_len": 0}])
def test_a_welcome_that_nobody_can_route_by_is_refused(change):
    with pytest.raises(BadMessage, match="Welcome"):
        info_of(pb.Welcome(**{"instance_id": "i", "role": "mixed", **SIZES, **change}))


def test_every_field_of_the_routers_load_is_reported():
    values = {name: n + 1 for n, name in enumerate(InstanceLoad.__slots__) if name != "draining"}
    assert load_of(pb.Load(draining=True, **values)) == InstanceLoad(draining=True, **values)


def test_block_changes_have_three_kinds():
    changes = [pb.BlockChange(kind=kind, hashes=[b"x"]) for kind in pb.BlockChange.Kind.values()]
    told = changes_of(pb.StepReport(blocks=changes))
    assert [(kind, list(hashes)) for kind, hashes in told] == [(k, [b"x"]) for k in ("stored", "removed", "cleared")]
    with pytest.raises(BadMessage, match="3"):
        changes_of(pb.StepReport(blocks=[*changes, pb.BlockChange(kind=3)]))


def test_outputs_have_an_epoch_an_index_and_an_end_that_is_known():
    outputs = [WireOutput("r", [1]), WireOutput("s", [], finish_reason=4)]
    check_outputs(outputs, pb.StepReport(epochs=[1, 1], indexes=[0, 0]))
    for bad in (pb.StepReport(epochs=[1], indexes=[0, 0]), pb.StepReport(epochs=[1, 1], indexes=[0])):
        with pytest.raises(BadMessage, match="2,"):
            check_outputs(outputs, bad)
    with pytest.raises(BadMessage, match="unknown ways"):
        check_outputs([WireOutput("r", [1], finish_reason=5)], pb.StepReport(epochs=[1], indexes=[0]))


def test_a_refusal_says_whose_fault_it_is():
    client = refusal_of("i", pb.Refused(reason="too long", client_fault=True))
    assert isinstance(client, RefusedByInstance) and client.retry_after_s is None and str(client) == "too long"
    ours = refusal_of("i", pb.Refused(reason="full"))
    assert isinstance(ours, Unavailable) and ours.retry_after_s and "i: full" in str(ours)

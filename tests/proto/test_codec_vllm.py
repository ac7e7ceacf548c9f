"""The codec's positions and numbers are those of the installed vLLM."""

import pytest
from vllm.v1 import engine

from shoal.proto import codec
from shoal.proto.codec import WireOutput, WireOutputs, WireRequest

pytestmark = pytest.mark.vllm

PAIRS = [
    (WireRequest, engine.EngineCoreRequest),
    (WireOutput, engine.EngineCoreOutput),
    (WireOutputs, engine.EngineCoreOutputs),
]


@pytest.mark.parametrize(("kind", "theirs"), PAIRS)
def test_positions_are_those_of_vllms_struct(kind, theirs):
    ours = list(kind.__struct_fields__)
    assert theirs.__struct_config__.array_like
    assert ours == list(theirs.__struct_fields__)[: len(ours)]


def test_finish_reasons_are_vllms():
    ours = {name.removeprefix("FINISH_"): value for name, value in vars(codec).items() if name.startswith("FINISH_")}
    assert ours == {member.name: int(member) for member in engine.FinishReason}

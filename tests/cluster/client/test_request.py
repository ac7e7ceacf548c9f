import pytest

from shoal.cluster.client.request import Words, build_request, build_sampling, join
from shoal.proto.v1 import inference_pb2 as pb


def build(prompt=None, token_ids=None, request_id="r", **sampling):
    return build_request(prompt, token_ids, Words(request_id), sampling)


def test_arguments_are_the_fields_of_the_wire():
    request = build("hi", temperature=0, stop="x", choice=["a", "b"], logit_bias={5: 1.5}, max_tokens=None)
    assert request == pb.GenerateRequest(
        request_id="r",
        text="hi",
        sampling=pb.SamplingParams(
            temperature=0, stop=["x"], choice=pb.Choices(choices=["a", "b"]), logit_bias={5: 1.5}
        ),
    )
    assert request.sampling.HasField("temperature") and not request.sampling.HasField("max_tokens")


def test_a_prompt_is_text_or_tokens():
    assert list(build(token_ids=[1, 2]).token_ids.ids) == [1, 2]
    for both in ({}, {"prompt": "a", "token_ids": [1]}):
        with pytest.raises(TypeError, match="either prompt or token_ids"):
            build(**both)


def test_an_unknown_argument_is_a_mistake_found_at_once():
    with pytest.raises(TypeError, match="temprature"):
        build_sampling({"temprature": 1})


def test_a_name_leaves_room_for_repeated_attempts():
    with pytest.raises(ValueError, match="at most 120 characters, given 121"):
        build("x", request_id="r" * 121)


def test_replies_join_to_one_answer():
    answer = join(
        [
            pb.GenerateReply(request_id="r", index=0, token_ids=[1], text="a", instance="i0"),
            pb.GenerateReply(request_id="r", choice=1, token_ids=[9], text="z", finish_reason="stop", stop_reason="s"),
            pb.GenerateReply(
                request_id="r",
                index=1,
                token_ids=[2, 3],
                text="bc",
                finish_reason="length",
                instance="i1",
                usage=pb.Usage(prompt_tokens=4, output_tokens=3, cached_tokens=2),
            ),
        ]
    )
    assert (answer.text, answer.choices[0].token_ids, answer.choices[0].finish_reason) == ("abc", [1, 2, 3], "length")
    assert (answer.choices[1].text, answer.choices[1].stop_reason) == ("z", "s")
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (4, 3, 2)
    assert answer.request_id == "r"

import json
import math

import pytest

from shoal.cluster.grpc_api.sampling import EngineFacts, check_sampling, check_token_ids, fit
from shoal.proto.errors import InvalidArgument
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb

FACTS = EngineFacts(max_model_len=100, vocabulary=256, max_logprobs=20, vllm_version="0.32.0")
LIMITS = LimitsConfig(choices=4, stops=2, grammar_bytes=64)
NAN = math.nan


def checked(**fields):
    return check_sampling(pb.SamplingParams(**fields), FACTS, LIMITS)


def nested(depth):
    return "[" * (depth - 1) + "]" * (depth - 1)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 1, 2], [-0.1, 2.1, NAN, math.inf]),
        ("top_p", [0.01, 1], [0, -1, 1.01, NAN]),
        ("top_k", [-1, 0, 1, 1000], [-2]),
        ("min_p", [0, 1], [-0.1, 1.1, NAN]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1, NAN]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1, NAN]),
        ("repetition_penalty", [0.001, 1, 1000], [0, -1, 1e-300, 1e300, math.inf, NAN]),
        ("max_tokens", [1, 50], [0]),
        ("logprobs", [0, 20], [21]),
        ("prompt_logprobs", [0, 20], [21]),
        ("n", [1, 4], [5]),
        ("stop", [["a"], ["a", "b"]], [["a", "b", "c"], [""]]),
        ("stop_token_ids", [[0, 255]], [[256]]),
        ("allowed_token_ids", [[0, 255]], [[1, 4000000000]]),
        ("logit_bias", [{0: -100, 255: 100}], [{256: 1}, {-1: 1}, {1: 101}, {1: NAN}, {1: -math.inf}]),
        ("bad_words", [["x"]], [[""], ["x" * 65]]),
        ("json_schema", ["{}"], ["", "{", "[]", "1", '{"a":"' + "x" * 64 + '"}']),
        ("regex", ["a+", " "], ["", "x" * 65]),
        ("grammar", ["root ::= 'a'"], ["", " \n", "é" * 33]),
        ("choice", [{"choices": ["a", "b"]}], [{"choices": []}, {"choices": [""]}, {"choices": ["x" * 40] * 2}]),
        ("json_object", [True], [False]),
    ],
)
def test_every_field_takes_what_is_within_its_limit_and_names_itself_beyond(field, good, bad):
    for value in good:
        checked(**{field: value})
    for value in bad:
        with pytest.raises(InvalidArgument) as caught:
            checked(**{field: value})
        assert caught.value.field.startswith(field)
        assert str(caught.value).startswith(f"{field}") and "must be" in str(caught.value)
        assert len(str(caught.value)) < 400


def test_every_field_of_the_wire_is_judged_or_passed_on():
    everything = pb.SamplingParams(
        temperature=0.5, top_p=0.5, top_k=3, min_p=0.1, presence_penalty=1, frequency_penalty=1, repetition_penalty=1.1,
        seed=-5, max_tokens=9, min_tokens=2, stop=["x"], stop_token_ids=[7, 7], ignore_eos=True,
        include_stop_str_in_output=True, skip_special_tokens=False, logprobs=1, prompt_logprobs=2, logit_bias={3: 1.5},
        bad_words=["w"], allowed_token_ids=[4, 4], n=2, regex="a",
    )  # fmt: skip
    sampling = check_sampling(everything, FACTS, LIMITS)
    assert sampling.structured == {"regex": "a"}
    assert sampling.choices == 2
    structured = {"json_schema", "regex", "grammar", "choice", "json_object"}
    assert set(sampling.fields) == set(pb.SamplingParams.DESCRIPTOR.fields_by_name) - structured
    assert (sampling.fields["stop_token_ids"], sampling.fields["allowed_token_ids"]) == ([7], [4])
    assert (sampling.fields["seed"], sampling.fields["skip_special_tokens"]) == (-5, False)


def test_an_absent_field_is_left_to_vllm():
    absent = {"n": 1, "stop": [], "stop_token_ids": [], "ignore_eos": False, "include_stop_str_in_output": False}
    assert checked().fields == absent
    assert checked().structured is None


@pytest.mark.parametrize(
    ("field", "value", "structured"),
    [
        ("json_schema", '{"type":"object"}', {"json": '{"type":"object"}'}),
        ("json_object", True, {"json_object": True}),
        ("choice", {"choices": ["a", "b"]}, {"choice": ["a", "b"]}),
        ("grammar", "root ::= 'a'", {"grammar": "root ::= 'a'"}),
    ],
)
def test_a_structured_constraint_is_named_as_vllm_names_it(field, value, structured):
    assert checked(**{field: value}).structured == structured


@pytest.mark.parametrize(("depth", "fine"), [(64, True), (65, False), (100_000, False)])
def test_a_schema_may_nest_as_deep_as_vllm_lets_it(depth, fine):
    wire = pb.SamplingParams(json_schema=json.dumps({"a": 0}).replace("0", nested(depth)))
    if fine:
        check_sampling(wire, FACTS, LimitsConfig(grammar_bytes=1 << 20))
    else:
        with pytest.raises(InvalidArgument, match="json_schema"):
            check_sampling(wire, FACTS, LimitsConfig(grammar_bytes=1 << 20))


def test_greedy_sampling_has_one_choice():
    with pytest.raises(InvalidArgument, match="n: must be 1 where temperature is 0, given 2"):
        checked(n=2, temperature=0)
    checked(n=2)


def test_prompt_and_output_fit_the_model_together():
    assert fit(checked(max_tokens=10), 90, FACTS).fields["max_tokens"] == 10
    with pytest.raises(InvalidArgument, match=r"max_tokens: must be at most 9 \(max_model_len 100 less 91 prompt"):
        fit(checked(max_tokens=10), 91, FACTS)
    for tokens in (0, 100, 1000):
        with pytest.raises(InvalidArgument, match=f"prompt: must be 1 to 99 tokens, given {tokens}"):
            fit(checked(), tokens, FACTS)


def test_absent_max_tokens_is_vllms_default_or_the_room_there_is():
    assert fit(checked(), 10, FACTS).fields["max_tokens"] == 16
    assert fit(checked(), 99, FACTS).fields["max_tokens"] == 1


def test_min_tokens_is_at_most_max_tokens():
    fit(checked(min_tokens=16), 10, FACTS)
    with pytest.raises(InvalidArgument, match="min_tokens: must be at most max_tokens, 16, given 17"):
        fit(checked(min_tokens=17), 10, FACTS)


def test_token_ids_are_of_the_vocabulary():
    assert check_token_ids("token_ids", [0, 255], FACTS) == [0, 255]
    with pytest.raises(InvalidArgument, match="token_ids: must be token ids from 0 to 255, given 256"):
        check_token_ids("token_ids", [1, 256], FACTS)

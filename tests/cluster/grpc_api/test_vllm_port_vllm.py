"""The port against the installed vLLM: its parameters, output processor and detokenizer, without an engine."""

import asyncio
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

from shoal.cluster.grpc_api.replies import Replies
from shoal.cluster.grpc_api.resume import ResumeCut
from shoal.cluster.grpc_api.sampling import EngineFacts, check_sampling, fit
from shoal.cluster.grpc_api.vllm_port import VllmEngine, complaints_of_vllm, sampling_params
from shoal.proto.errors import InvalidArgument, Overloaded
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb

pytestmark = pytest.mark.vllm

FACTS = EngineFacts(max_model_len=200, vocabulary=256, max_logprobs=20, vllm_version="0.32.0")
TEXT = "naïve 🐟 shoals, ST and more 🐠STOP"


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte, so that a character may lie across tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def checked(**fields):
    return fit(check_sampling(pb.SamplingParams(**fields), FACTS, LimitsConfig()), 3, FACTS)


def engine_request(tokenizer, params):
    return EngineCoreRequest(
        request_id="t/r",
        prompt_token_ids=tokenizer.encode("abc"),
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        external_req_id="t/r",
    )


async def outputs_of(tokenizer, params, tokens, ends, finish, merged):
    """vLLM's own outputs for a run whose engine outputs end at `ends`; unread ones merge where `merged`."""
    processor = OutputProcessor(tokenizer, log_stats=False)
    queue = RequestOutputCollector(params.output_kind, "t/r")
    processor.add_request(engine_request(tokenizer, params), None, queue=queue)
    collected, start = [], 0
    for end in ends:
        core = EngineCoreOutput(request_id="t/r", new_token_ids=list(tokens[start:end]))
        core.finish_reason = finish if end == len(tokens) else None
        processor.process_outputs([core])
        if not merged and queue.output is not None:
            collected.append(await queue.get())
        start = end
    if queue.output is not None:
        collected.append(await queue.get())
    return collected


@pytest.mark.parametrize("stop", [[], ["STOP"], ["never in the text"]], ids=["no stop", "stop", "long stop"])
@pytest.mark.parametrize("merged", [False, True])
async def test_a_stream_resumed_at_any_token_equals_the_undisturbed_one(tokenizer, stop, merged):
    params = sampling_params(checked(max_tokens=100, stop=stop))
    tokens = tokenizer.encode(TEXT)
    one_by_one = range(1, len(tokens) + 1)
    first = await outputs_of(tokenizer, params, tokens, one_by_one, FinishReason.LENGTH, merged=False)
    replies = [r for output in first for r in Replies("r").of(output, "i")]
    text, ids = "".join(r.text for r in replies), [t for r in replies for t in r.token_ids]
    assert text == (TEXT.removesuffix("STOP") if stop == ["STOP"] else TEXT)
    bundles = [5, 6, 17, len(tokens)]
    again = await outputs_of(tokenizer, params, tokens, bundles, FinishReason.LENGTH, merged)
    engine = VllmEngine(SimpleNamespace(tokenizer=tokenizer))
    released = engine.released_chars(engine_request(tokenizer, params))
    for had in range(len(replies)):
        next_index = sum(len(r.token_ids) for r in replies[:had])
        stream = Replies("r", ResumeCut(next_index, 100, released), next_index)
        rest = [r for output in again for r in stream.of(output, "i")]
        assert "".join(r.text for r in [*replies[:had], *rest]) == text, next_index
        assert [t for r in [*replies[:had], *rest] for t in r.token_ids] == ids
        assert rest[0].index == next_index
        assert rest[-1].finish_reason == replies[-1].finish_reason


def test_every_checked_field_is_a_parameter_of_vllm():
    params = sampling_params(
        checked(
            temperature=0.5, top_p=0.5, top_k=3, min_p=0.1, presence_penalty=1, frequency_penalty=1,
            repetition_penalty=1.1, seed=7, max_tokens=9, min_tokens=2, stop=["x"], stop_token_ids=[7], ignore_eos=True,
            include_stop_str_in_output=True, skip_special_tokens=False, logprobs=1, prompt_logprobs=2,
            logit_bias={3: 1.5}, bad_words=["w"], allowed_token_ids=[4], n=2, regex="a",
        )
    )  # fmt: skip
    assert params.output_kind is RequestOutputKind.DELTA
    assert (params.seed, params.n, params.max_tokens, params.structured_outputs.regex) == (7, 2, 9, "a")


def test_an_absent_field_has_vllms_default():
    ours, default = sampling_params(checked()), SamplingParams(output_kind=RequestOutputKind.DELTA)
    assert ours == default


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [-3.0, 3.0])
def test_our_ranges_are_no_wider_than_vllms(field, value):
    with pytest.raises(VLLMValidationError):
        SamplingParams(**{field: value})
    with pytest.raises(InvalidArgument):
        checked(**{field: value})


def test_vllms_complaints_become_ours():
    with pytest.raises(InvalidArgument, match="bad_words: must be as vLLM asks \\(too many\\), given 9"):
        with complaints_of_vllm():
            raise VLLMValidationError("too many", parameter="bad_words", value=9)
    with pytest.raises(Overloaded):
        with complaints_of_vllm():
            raise EngineGenerateError from Overloaded("full")
    with pytest.raises(EngineGenerateError):
        with complaints_of_vllm():
            raise EngineGenerateError from RuntimeError("ours")


async def test_closing_the_stream_closes_vllms():
    closed = asyncio.Event()

    class Llm:
        async def generate(self, *args, **kwargs):
            try:
                yield "one"
                await asyncio.Event().wait()
            finally:
                closed.set()

    request = SimpleNamespace(request_id="old", external_req_id="old", sampling_params=None)
    stream = VllmEngine(Llm()).replay(request, "t/r")
    assert await anext(stream) == "one"
    await stream.aclose()
    assert closed.is_set()
    assert (request.request_id, request.external_req_id) == ("t/r", None)

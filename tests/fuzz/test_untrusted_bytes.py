"""Whatever bytes come, the places that read them first end in a value or in an error of ours: 2 s by default, 10
minutes at night, all kinds in turn. The seed is printed; SHOAL_FUZZ_SEED repeats a run.
"""

import json
import os
import random
import time

import msgspec
import pytest
from google.protobuf.message import DecodeError

from shoal.cluster.body_checks import check_body
from shoal.cluster.grammar_limits import check_text
from shoal.cluster.grpc_api.sampling import EngineFacts, check_sampling
from shoal.cluster.tenants import Tenants
from shoal.proto.codec import WireOutputs, WireRequest, decode, encode
from shoal.proto.errors import BadMessage, ClientFault
from shoal.proto.limits import LimitsConfig
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import inference_pb2, instance_pb2, pool_pb2
from tests.proto.test_codec import MESSAGES, mutated

SPAN_S = 600.0 if os.environ.get("SHOAL_NIGHTLY") else 2.0
BATCH = 500
LIMITS = LimitsConfig(body_bytes=1 << 16)
FACTS = EngineFacts(max_model_len=100, vocabulary=256, max_logprobs=20, vllm_version="0.32.0")
BODY = json.dumps(
    {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "é\U0001f600"}]}],
        "n": 2,
        "stop": ["a", "b"],
        "tools": [{"function": {"parameters": {"maxItems": 3, "items": {"pattern": "(a{2}){3}"}}}}],
        "structured_outputs": {"json": '{"type": "object"}', "regex": "[a-z]{1,3}"},
    }
).encode()


def frames():
    up = instance_pb2.Up(submit=instance_pb2.Submit(request_id="r", epoch=1, request=encode([1, 2])))
    Sealer().seal(up)
    sampling = inference_pb2.SamplingParams(temperature=0.5, n=2, stop=["x"], regex="(a{3}){2}", logit_bias={1: 2.0})
    ask = inference_pb2.GenerateRequest(request_id="r", text="abc", sampling=sampling)
    take = pool_pb2.TakeAsk(source="n", tenant="t", keys=[b"k" * 48], lease="l", wait_s=1.0)
    return up, ask, take


UP, ASK, TAKE = (one.SerializeToString() for one in frames())


def read_wire(data):
    for kind in (WireRequest, WireOutputs):
        decode(kind, data)


def read_up(data):
    SealReader().check(instance_pb2.Up.FromString(data))


def read_ask(data):
    check_sampling(inference_pb2.GenerateRequest.FromString(data).sampling, FACTS, LIMITS)


def read_key(data):
    Tenants({"k": "t"}, "s").authenticate(data.decode("latin-1"))


READERS = {
    "request": (MESSAGES[0][1], read_wire, (BadMessage,)),
    "outputs": (MESSAGES[1][1], read_wire, (BadMessage,)),
    "frame": (UP, read_up, (DecodeError, BadMessage)),
    "client call": (ASK, read_ask, (DecodeError, ClientFault)),
    "pool call": (TAKE, pool_pb2.TakeAsk.FromString, (DecodeError,)),
    "body": (BODY, lambda data: check_body(data, LIMITS), (ClientFault,)),
    "grammar": (b"((a{2}[b\\]]){3}|\\{c){,4}" * 3, lambda d: check_text("g", d.decode("latin-1"), 99), (ClientFault,)),
    "key": (b"Bearer k", read_key, (ClientFault,)),
}


@pytest.mark.timeout(SPAN_S + 60)
def test_no_bytes_raise_anything_but_an_error_with_a_name():
    seed = int(os.environ.get("SHOAL_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    rng, end_s = random.Random(seed), time.monotonic() + SPAN_S
    counts = dict.fromkeys(READERS, 0)
    while time.monotonic() < end_s:
        for name, (sample, read, named) in READERS.items():
            for _ in range(BATCH):
                data = mutated(sample, rng)
                for _ in range(rng.choice((0, 0, 0, 1, 5))):
                    data = mutated(data, rng)
                try:
                    read(data)
                except named:
                    pass
                except Exception as exc:
                    raise AssertionError(f"{name}, seed {seed}: {data!r}") from exc
            counts[name] += BATCH
    print(counts)
    assert min(counts.values()) >= BATCH


def test_a_reader_that_lets_an_error_through_would_be_noticed():
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        for n in range(256):
            msgspec.msgpack.decode(bytes([n]) * 3, type=list[str])

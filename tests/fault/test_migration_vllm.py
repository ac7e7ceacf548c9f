"""The same with real engines: each who takes part in a move is killed or cut off once at each stage."""

import importlib

import pytest

from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.config import parse_config
from tests.tools.trio import LIMIT_S, POINTS, Trio, recoveries

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("point", POINTS)
async def test_whoever_dies_while_a_real_request_moves_its_tokens_are_those_of_an_undisturbed_run(point, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seam = importlib.import_module("shoal.instance.vllm_seam")
    engine = {"dtype": "float32", "max_model_len": 2048, "kv_cache_bytes": 1 << 27}
    trio = Trio(
        point,
        config=parse_config({"model": str(ensure_tiny_model()), "engine": engine}),
        says=None,
        start_s=120.0,
        vllm_version=seam.VLLM_VERSION,
        hash_seed=seam.get_none_hash_seed().encode().hex(),
        sampling={"temperature": 0.0, "ignore_eos": True},
    )
    for victim, seen_s in (await recoveries(trio, point, 1)).items():
        print(f"{point} {victim}: next token after {1e3 * max(seen_s):.0f} ms")
        assert max(seen_s) < 10 * LIMIT_S[victim]

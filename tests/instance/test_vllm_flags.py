"""Configuration becomes vLLM's flags, the same for every process of a cluster."""

import os

import pytest

from shoal.instance.vllm_flags import CPU_KV_CACHE_BYTES, VLLM_ENVIRONMENT, set_vllm_environment, vllm_flags
from shoal.proto.config import parse_config


def flags(tree: dict[str, object] | None = None, *, on_cpu: bool = True) -> list[str]:
    return vllm_flags(parse_config(tree or {}), model_path="/models/x", on_cpu=on_cpu)


def value(of: list[str], name: str) -> str:
    assert of.count(name) == 1
    return of[of.index(name) + 1]


def test_the_sizes_of_the_engine_are_those_of_the_configuration() -> None:
    engine = {
        "block_size": 16,
        "max_model_len": 4096,
        "max_num_batched_tokens": 512,
        "max_num_seqs": 9,
        "tensor_parallel_size": 2,
        "kv_cache_bytes": 12345,
        "dtype": "bfloat16",
    }
    given = flags({"engine": engine, "served_model_name": "name"})
    expected = {
        "--model": "/models/x",
        "--served-model-name": "name",
        "--block-size": "16",
        "--max-model-len": "4096",
        "--max-num-batched-tokens": "512",
        "--max-num-seqs": "9",
        "--tensor-parallel-size": "2",
        "--kv-cache-memory-bytes": "12345",
        "--dtype": "bfloat16",
        "--scheduling-policy": "priority",
    }
    assert {name: value(given, name) for name in expected} == expected
    assert "--enable-prefix-caching" in given


def test_on_a_cpu_memory_is_bounded_and_nothing_is_compiled() -> None:
    assert value(flags(), "--kv-cache-memory-bytes") == str(CPU_KV_CACHE_BYTES)
    assert "--enforce-eager" in flags()
    assert "--enforce-eager" not in flags({"engine": {"enforce_eager": False}})


def test_on_a_gpu_memory_and_compilation_are_vllms_own_choice() -> None:
    given = flags(on_cpu=False)
    assert "--kv-cache-memory-bytes" not in given
    assert "--enforce-eager" not in given
    assert "--enforce-eager" in flags({"engine": {"enforce_eager": True}}, on_cpu=False)


def test_what_is_not_set_is_left_to_vllm() -> None:
    assert "--max-model-len" not in flags()
    assert "--enable-lora" not in flags()


def test_adapters_bring_their_flags() -> None:
    given = flags({"lora": {"a": "/l/a", "b": "/l/b"}, "engine": {"max_loras": 3, "max_lora_rank": 8}})
    assert "--enable-lora" in given
    assert (value(given, "--max-loras"), value(given, "--max-lora-rank")) == ("3", "8")
    start = given.index("--lora-modules")
    assert given[start + 1 : start + 3] == ["a=/l/a", "b=/l/b"]


def test_extra_flags_come_last_so_that_they_win() -> None:
    given = flags({"engine": {"extra_args": ["--max-num-seqs", "7"]}})
    assert given[-2:] == ["--max-num-seqs", "7"]


def test_the_environment_yields_to_what_the_operator_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VLLM_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    set_vllm_environment()
    seen = {name: os.environ[name] for name in VLLM_ENVIRONMENT}
    for name in VLLM_ENVIRONMENT:
        monkeypatch.setenv(name, os.environ[name])  # so that they are taken back
    assert seen == {**VLLM_ENVIRONMENT, "VLLM_LOGGING_LEVEL": "DEBUG"}

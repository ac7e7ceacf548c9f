"""One real cluster for all tests of this folder: two vLLM instances, two frontends, two tenants, one adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import save_file

from shoal.bench.processes import free_port
from shoal.bench.under_test import ShoalUnderTest, Status
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.config import ClusterConfig, parse_config

KEYS = {"key-of-ada": "ada", "key-of-bob": "bob"}
START_S = 300.0


@dataclass(frozen=True)
class Cluster:
    config: ClusterConfig
    shoal: ShoalUnderTest
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.config.grpc_port}"

    def status(self) -> Status:
        return self.shoal.status()

    def openai(self, key: str = "key-of-ada") -> openai.OpenAI:
        if key not in self.clients:
            self.clients[key] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        return self.clients[key]

    def await_idle(self, instances: int = 2, timeout_s: float = 90.0) -> Status:
        """Until so many instances are ready and nothing runs; then every block must be free."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            status = self.status()
            ready = status.ready()
            idle = len(ready) >= instances and all(i.running == i.waiting == 0 for i in ready)
            if idle and all(i.free_blocks == i.total_blocks for i in ready):
                return status
            assert time.monotonic() < deadline_s, f"not idle after {timeout_s:.0f} s: {status}"
            time.sleep(0.2)


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter for the tiny model, random but large enough to change its words."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in range(8):
        for name in ("q_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(8, 256, generator=generator)
            weights[f"{stem}.lora_B.weight"] = torch.randn(256, 8, generator=generator)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": "tiny",
                "r": 8,
                "lora_alpha": 16,
                "target_modules": ["q_proj", "v_proj"],
                "bias": "none",
            }
        )
    )
    return folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    config = parse_config(
        {
            "model": str(ensure_tiny_model()),
            "served_model_name": "tiny",
            "instances": 2,
            "frontends": 2,
            "http_port": free_port(),
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "keys": KEYS,
            "lora": {"pirate": str(write_adapter(folder / "pirate"))},
            "admission": {"no_instance_wait_s": 60},
            # Only an answer of one token is within this: both kinds of requests are seen.
            "slo": {"ttft_base_s": 60, "decode_step_ms": 0.01},
            "engine": {
                "dtype": "float32",
                "max_model_len": 4096,
                "max_num_batched_tokens": 512,
                "kv_cache_bytes": 1 << 28,
                "extra_args": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
            },
        }
    )
    with ShoalUnderTest(config, folder) as shoal:
        shoal.wait_up(START_S)
        deadline_s = time.monotonic() + START_S
        while len(shoal.status().frontends) < config.frontends:
            assert time.monotonic() < deadline_s, "the second frontend never came"
            time.sleep(0.5)
        made = Cluster(config, shoal)
        yield made
        for client in made.clients.values():
            client.close()

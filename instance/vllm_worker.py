"""What runs inside each vLLM worker, next to the model runner: the rows of continued requests, their random generators,
and the worker's share of the KV blocks.

vLLM mixes `WorkerExtension` into its worker class, so `self` is the worker. V1 runners keep a row per request
(`model_runner.requests`); V2 runners keep none and draw sampling noise from (seed, position), so all of this is empty
there.
"""

from __future__ import annotations

import threading
from hashlib import blake2b
from typing import Any

import torch

from shoal.instance.vllm_blocks import BlockCopier
from shoal.instance.vllm_ranks import serve_blocks
from shoal.instance.vllm_seam import CachedRequestState, SamplingType


class RewindableGenerator(torch.Generator):
    """A CPU generator for the row of one seeded request, which can take back the draw of a step whose token is thrown
    away.

    vLLM's V1 runner samples a token for every prefill chunk, discards all but the last, and rewinds the generator with
    get_offset/set_offset, which CPU generators do not have: the stock engine dies there. Here a rewind starts again
    from the seed and draws for the tokens that the row has, which is exact because each token costs the same draws.
    """

    row: CachedRequestState

    @classmethod
    def for_row(cls, row: CachedRequestState, state: bytes = b"") -> RewindableGenerator:
        """`state`: where another engine's generator was; without it, drawn anew, which takes as long as the output."""
        generator = cls(device="cpu")
        generator.row = row
        if state:
            generator.set_state(_tensor(state))
        else:
            generator.set_offset(0)
        return generator

    def get_offset(self) -> int:
        return 0

    def set_offset(self, _offset: int) -> None:
        seed = self.row.sampling_params.seed
        assert seed is not None
        self.manual_seed(seed)
        advance(self, len(self.row.output_token_ids), vocabulary=0)


def advance(generator: torch.Generator, tokens: int, *, vocabulary: int) -> None:
    """Draw what vLLM's sampler drew for `tokens` tokens (vllm/v1/sample/ops/topk_topp_sampler.py).

    CPU: one 31-bit integer a token. Elsewhere: one row of exponential noise, `vocabulary` wide.
    """
    noise = torch.empty(vocabulary, device=generator.device)
    for _ in range(tokens):
        if generator.device.type == "cpu":
            torch.randint(0, 2**31, (1,), generator=generator, dtype=torch.long)
        else:
            noise.exponential_(generator=generator)


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


class SeededRows(dict[str, CachedRequestState]):
    """The runner's own table of rows, which gives each new seeded row a generator that can be rewound."""

    def __setitem__(self, request_id: str, row: CachedRequestState) -> None:
        generator = row.generator
        if generator is not None and generator.device.type == "cpu" and not isinstance(generator, RewindableGenerator):
            row.generator = RewindableGenerator.for_row(row)
        super().__setitem__(request_id, row)


class WorkerExtension:
    """Called through `collective_rpc`, once per rank. Names carry the project's, to clash with none of vLLM's."""

    model_runner: Any
    rank: int

    def shoal_install_rows(self) -> None:
        if hasattr(self.model_runner, "requests"):
            self.model_runner.requests = SeededRows(self.model_runner.requests)

    def shoal_put_row(self, fields: dict[str, Any], generator_state: bytes = b"") -> None:
        """The row of a request that enters as a preempted one, its generator where it would be after its output."""
        if not hasattr(self.model_runner, "requests"):
            return
        row = CachedRequestState(
            mm_features=[], generator=None, block_ids=([],), num_computed_tokens=0, pooling_params=None, **fields
        )
        if row.sampling_params.sampling_type == SamplingType.RANDOM_SEED:
            row.generator = self._generator(row, generator_state)
        self.model_runner.requests[row.req_id] = row

    def _generator(self, row: CachedRequestState, state: bytes) -> torch.Generator:
        device = torch.device(self.model_runner.device)
        if device.type == "cpu":
            return RewindableGenerator.for_row(row, state)
        generator = torch.Generator(device=device)
        if state:
            generator.set_state(_tensor(state))
        else:
            generator.manual_seed(row.sampling_params.seed)
            advance(generator, len(row.output_token_ids), vocabulary=self.model_runner.input_batch.vocab_size)
        return generator

    def shoal_generator(self, request_id: str) -> bytes:
        """The state of a running request's generator; empty where it has none."""
        row = getattr(self.model_runner, "requests", {}).get(request_id)
        return b"" if row is None or row.generator is None else row.generator.get_state().numpy().tobytes()

    def shoal_weights_digest(self) -> bytes:
        """Of a sample of each weight as it was loaded: another model's, or another training's, differs."""
        digest = blake2b(digest_size=16)
        for name, weight in self.model_runner.get_model().named_parameters():
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64]
            digest.update(name.encode() + sample.to(torch.float64).cpu().numpy().tobytes())
        return digest.digest()

    def shoal_block_copier(self) -> BlockCopier:
        """Only where worker and engine are one process."""
        return BlockCopier(self.model_runner.kv_caches)

    def shoal_serve_blocks(self, path: str, ranks: int) -> None:
        copier = BlockCopier(self.model_runner.kv_caches, ranks=ranks, rank=self.rank)
        threading.Thread(target=serve_blocks, args=(path, copier), name="shoal-blocks", daemon=True).start()


__all__ = ["RewindableGenerator", "SeededRows", "WorkerExtension", "advance"]

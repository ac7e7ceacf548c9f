"""What runs inside each vLLM worker, next to the model runner: the rows of continued requests and their random
generators.

vLLM mixes `WorkerExtension` into its worker class, so `self` is the worker. V1 runners keep a row per request
(`model_runner.requests`); V2 runners keep none and draw sampling noise from (seed, position), so all of this is empty
there.
"""

from __future__ import annotations

from typing import Any

import torch

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
    def for_row(cls, row: CachedRequestState) -> RewindableGenerator:
        generator = cls(device="cpu")
        generator.row = row
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


class SeededRows(dict[str, CachedRequestState]):
    """The runner's own table of rows, which gives each new seeded row a generator that can be rewound."""

    def __setitem__(self, request_id: str, row: CachedRequestState) -> None:
        if row.generator is not None and row.generator.device.type == "cpu":
            row.generator = RewindableGenerator.for_row(row)
        super().__setitem__(request_id, row)


class WorkerExtension:
    """Called through `collective_rpc`, once per rank. Names carry the project's, to clash with none of vLLM's."""

    model_runner: Any

    def shoal_install_rows(self) -> None:
        if hasattr(self.model_runner, "requests"):
            self.model_runner.requests = SeededRows(self.model_runner.requests)

    def shoal_put_row(self, fields: dict[str, Any]) -> None:
        """The row of a request that enters as a preempted one, its generator where it would be after its output."""
        if not hasattr(self.model_runner, "requests"):
            return
        row = CachedRequestState(
            mm_features=[], generator=None, block_ids=([],), num_computed_tokens=0, pooling_params=None, **fields
        )
        if row.sampling_params.sampling_type == SamplingType.RANDOM_SEED:
            row.generator = torch.Generator(device=self.model_runner.device)
            if row.generator.device.type != "cpu":  # on CPU the table makes a generator of its own
                row.generator.manual_seed(row.sampling_params.seed)
                advance(row.generator, len(row.output_token_ids), vocabulary=self.model_runner.input_batch.vocab_size)
        self.model_runner.requests[row.req_id] = row


__all__ = ["RewindableGenerator", "SeededRows", "WorkerExtension", "advance"]

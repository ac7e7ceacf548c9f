"""vLLM's EngineCore, in this process, behind the engine seam.

A continued request (one that already has output) enters as vLLM re-admits a preempted one: prompt and output stay
apart, so penalties, min_tokens, max_tokens, stop conditions and finish reasons are exact; its generator is replayed and
its grammar fed again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from shoal.instance import kv_connector
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.instance.request_checks import RequestLimits
from shoal.instance.seam import BlockChange, EngineInfo, EngineLoad, Prepared, Refused, StepResult, Submission
from shoal.instance.vllm_mover import VllmMover
from shoal.instance.vllm_ranks import block_copier
from shoal.instance.vllm_scheduler import scheduler_path
from shoal.instance.vllm_seam import (
    VLLM_VERSION,
    AllBlocksCleared,
    AsyncEngineArgs,
    BlockRemoved,
    BlockStored,
    EngineCore,
    EngineCoreOutputs,
    EngineCoreRequest,
    Executor,
    KVEventsConfig,
    LoRARequest,
    MsgpackDecoder,
    MsgpackEncoder,
    Request,
    RequestStatus,
    SamplingParams,
    StructuredOutputsParams,
    current_platform,
    get_none_hash_seed,
)
from shoal.proto.codec import INLINE_BYTES
from shoal.proto.errors import BadMessage


class BlockEvents:
    """Stands where vLLM expects an event publisher; keeps the block changes of the last step until they are taken."""

    def __init__(self) -> None:
        self.changes: list[BlockChange] = []

    def publish(self, batch: Any) -> None:
        self.add(batch.events)

    def add(self, events: Iterable[Any]) -> None:
        for event in events:
            match event:
                case BlockStored():
                    self.changes.append(BlockChange("stored", tuple(event.block_hashes)))
                case BlockRemoved():
                    self.changes.append(BlockChange("removed", tuple(event.block_hashes)))
                case AllBlocksCleared():
                    self.changes.append(BlockChange("cleared"))

    def shutdown(self) -> None:
        pass


class VllmEngine:
    """Owns one EngineCore. See `Engine` in seam.py for what may be called from where."""

    def __init__(self, args: AsyncEngineArgs, model_name: str, *, pool: bool = False) -> None:
        if args.tensor_parallel_size == 1:
            args.distributed_executor_backend = "uni"
        args.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
        args.worker_extension_cls = "shoal.instance.vllm_worker.WorkerExtension"
        args.kv_transfer_config = kv_connector.transfer_config() if pool else None
        config = args.create_engine_config()
        config.scheduler_config.scheduler_cls = scheduler_path(config.scheduler_config.async_scheduling)
        self.core = EngineCore(config, Executor.get_class(config), log_stats=True)
        self.core.collective_rpc("shoal_install_rows")
        self.scheduler = self.core.scheduler
        self.events = BlockEvents()
        self.scheduler.kv_event_publisher = self.events
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.decoder, self.encoder = MsgpackDecoder(EngineCoreRequest), MsgpackEncoder(INLINE_BYTES)
        self.uncached: dict[str, int] = {}  # of waiting requests: prompt tokens not in the prefix cache when they came
        self.info = EngineInfo(
            model=model_name,
            vllm_version=VLLM_VERSION,
            block_size=config.cache_config.block_size,
            total_blocks=self.pool.num_gpu_blocks - 1,  # block 0 is vLLM's null block
            max_model_len=config.model_config.max_model_len,
            max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            hash_seed=get_none_hash_seed().encode().hex(),
        )
        self.loras: dict[int, str] = {}
        self.mover = VllmMover(self.core, block_copier(self.core))
        model, speculative = config.model_config, config.speculative_config
        self.limits = RequestLimits(
            vocabulary=model.get_vocab_size(),
            max_model_len=self.info.max_model_len,
            block_size=self.info.block_size,
            total_blocks=self.info.total_blocks,
            loras=self.loras,
            # Without configuration and tokenizer it leaves out grammars: those are compiled, and fail, one by one.
            verify=lambda params: params.verify(model, speculative, None, None),
        )

    # -- in

    def prepare(self, submission: Submission) -> Prepared:
        wire = self._decode(submission.request)
        wire.request_id, wire.client_index = submission.engine_id, 0
        self.limits.check(wire, submission.delivered)
        try:
            request, _wave = self.core.preprocess_add_request(wire)
        except Exception as exc:  # an impossible grammar, mostly
            raise Refused(f"{type(exc).__name__}: {exc}", client_fault=isinstance(exc, ValueError)) from exc
        if submission.delivered:
            request.append_output_token_ids(list(submission.delivered))
            request.num_preemptions, request.prefill_stats = 1, None
        return Prepared(submission.engine_id, request)

    def _decode(self, data: bytes) -> EngineCoreRequest:
        try:
            return self.decoder.decode(data)
        except Exception as exc:  # vLLM's hooks for tensors raise what they like on strange bytes
            raise BadMessage(f"EngineCoreRequest: {type(exc).__name__}: {exc}"[:200]) from None

    def ready(self, prepared: Prepared) -> bool:
        request: Request = prepared.native
        grammar = request.structured_output_request
        # A fresh request waits for its grammar inside the scheduler; a continued one skips that wait, so it waits here.
        return grammar is None or not request.num_output_tokens or grammar.is_grammar_ready

    def add(self, prepared: Prepared) -> None:
        request: Request = prepared.native
        if request.num_output_tokens and not self._grammar_failed(request):
            self._continue(request)
        self.uncached[request.request_id] = max(0, request.num_tokens - self._cached_tokens(request))
        self.core.add_request(request)

    @staticmethod
    def _grammar_failed(request: Request) -> bool:
        """Then the scheduler's own check ends the request with an error."""
        return request.structured_output_request is not None and isinstance(
            request.structured_output_request.grammar, Exception
        )

    def _continue(self, request: Request) -> None:
        output = list(request.output_token_ids)
        if not self.core.structured_output_manager.accept_tokens(request, output):
            raise RuntimeError(f"{request.request_id}: its grammar refuses its own output")
        row = dict(
            req_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling_params=request.sampling_params,
            output_token_ids=output,
            lora_request=request.lora_request,
        )
        self.core.collective_rpc("shoal_put_row", args=(row,))
        request.status = RequestStatus.PREEMPTED

    def _cached_tokens(self, request: Request) -> int:
        hits = 0
        for block_hash in request.block_hashes:
            if self.pool.get_cached_block(block_hash, [0]) is None:
                break
            hits += 1
        return hits * self.info.block_size

    def abort(self, engine_ids: Iterable[str]) -> None:
        ids = list(engine_ids)
        self.core.abort_requests(ids)
        for engine_id in ids:
            self.uncached.pop(engine_id, None)

    # -- step

    def has_work(self) -> bool:
        return self.scheduler.has_requests() or bool(self.core.batch_queue)

    def step(self) -> StepResult:
        outputs, executed = self.core.step_fn()
        self.core.post_step(executed)
        result = StepResult(executed=executed, tokens=self.scheduler.scheduled_tokens)
        for group in (outputs or {}).values():
            result.outputs.extend(group.outputs)
        return result

    def load(self) -> EngineLoad:
        scheduler = self.scheduler
        waiting = [*scheduler.waiting, *scheduler.kv_holding_waiting]
        running = scheduler.running
        self.uncached = {
            r.request_id: self.uncached.get(r.request_id, r.num_tokens - r.num_computed_tokens) for r in waiting
        }
        return EngineLoad(
            running=len(running),
            waiting=len(waiting),
            queued_prefill_tokens=sum(self.uncached.values()),
            # A running decode always has one token to compute: its newest. Only more than that is prefill.
            uncached_prefill_tokens=sum(n for r in running if (n := r.num_tokens - r.num_computed_tokens) > 1),
            context_tokens=sum(r.num_computed_tokens for r in running),
            free_blocks=self.pool.get_num_free_blocks(),
            total_blocks=self.info.total_blocks,
        )

    def take_block_changes(self) -> list[BlockChange]:
        self.events.add(self.scheduler.kv_cache_manager.take_events() or ())
        changes, self.events.changes = self.events.changes, []
        return changes

    def encode(self, outputs: list[Any]) -> bytes:
        return self.encoder.encode(EngineCoreOutputs(outputs=outputs))[0]

    # -- rare acts

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        match method:
            case "add_lora":
                return self._add_lora(LoRARequest(**arguments))
            case "remove_lora":
                self.loras.pop(arguments["lora_id"], None)
                return self.core.remove_lora(arguments["lora_id"])
            case "pin_lora":
                return self.core.pin_lora(arguments["lora_id"])
            case "list_loras":
                return sorted(self.core.list_loras())
            case "reset_prefix_cache":
                return self.core.reset_prefix_cache()
            case _:
                raise Refused(f"{method}: no such act", client_fault=True)

    def _add_lora(self, lora: LoRARequest) -> bool:
        added: bool = self.core.add_lora(lora)
        self.loras[lora.lora_int_id] = lora.lora_name
        return added

    def warm_up(self) -> None:
        """First use of logprobs, seeds with penalties, and grammars costs seconds of compilation: pay it before any
        client does.
        """
        schema = StructuredOutputsParams(
            json='{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'
        )
        schema._backend = "xgrammar"  # set by the frontend's input processor otherwise
        for params in (
            SamplingParams(max_tokens=2, logprobs=1),
            SamplingParams(max_tokens=2, seed=1, presence_penalty=0.1, top_p=0.9, top_k=5),
            SamplingParams(max_tokens=2, temperature=0, structured_outputs=schema),
        ):
            self._run_to_end(params)
        self.core.reset_prefix_cache()
        self.take_block_changes()

    def _run_to_end(self, params: SamplingParams) -> None:
        wire = EngineCoreRequest(
            request_id=f"warm-up-{uuid.uuid4()}",
            prompt_token_ids=[1] * (self.info.block_size + 1),
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self.core.add_request(*self.core.preprocess_add_request(wire))
        while self.has_work():
            self.step()

    # -- the node's pool (an engine made with pool=True)

    def block_bytes(self) -> int:
        """Of one KV block in one worker: the size of the pool's slots."""
        return int(self.core.collective_rpc(kv_connector.block_bytes_of)[0])

    def attach_pool(self, address: str, token: str, *, weights: str, tls: InnerTls = PLAIN) -> None:
        """Raises Unavailable. From here on its blocks go there and come from there."""
        words = kv_connector.PoolWords(address, token, self.info.model, weights, self.info.hash_seed, tls)
        kv_connector.attach_pool(self.core, words)

    def shutdown(self) -> None:
        self.mover.copier.close()
        self.core.shutdown()


def on_cpu() -> bool:
    return current_platform.is_cpu()


__all__ = ["BlockEvents", "VllmEngine", "on_cpu"]

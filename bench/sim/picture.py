"""What planners see of simulated instances: the hosts and jobs that the controller makes out of reports. Here they are
true now; in production they are a report old."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.bench.sim.instance import SimInstance
from shoal.bench.sim.request import SimRequest
from shoal.instance.fake_mover import sight_of
from shoal.instance.mover import Sight
from shoal.instance.step_time import StepWork
from shoal.router.fleet import Host, Job, Phase

PROBE_TOKENS = 512  # a prefill of this size tells the price of one token
PROBE = StepWork(PROBE_TOKENS, PROBE_TOKENS**2 / 2)


def host_of(instance: SimInstance, now_s: float, resting: Mapping[str, float]) -> Host:
    """`resting`: until when requests do whose last move failed."""
    instance.catch_up(now_s)
    load, size = instance.model.load(), instance.model.block_size
    held = instance.requests.values()
    return Host(
        id=instance.name,
        block_size=size,
        total_blocks=load.total_blocks,
        free_blocks=load.free_blocks,
        jobs=tuple([_job(request, sight_of(model, size), now_s, resting) for request, model in held]),
        max_running=instance.model.max_num_seqs,
        step_s=instance.step_ms / 1000,
        prefill_s_per_token=instance.step_time.step_ms(PROBE) / 1000 / PROBE_TOKENS,
        draining=instance.draining,
        role=instance.role,
    )


def _job(request: SimRequest, sight: Sight, now_s: float, resting: Mapping[str, float]) -> Job:
    rests = resting.get(request.request_id, 0.0) > now_s
    return Job(
        request.request_id,
        phase=Phase(sight.phase.value),
        blocks=sight.blocks,
        prompt_tokens=sight.prompt_tokens,
        output_tokens=sight.output_tokens,
        computed_tokens=sight.computed_tokens,
        max_new_tokens=request.max_new_tokens,
        priority=request.priority,
        age_s=now_s - request.since_s,
        moves=request.moves,
        unmovable="its last move failed a moment ago" if rests else "",
    )


__all__ = ["host_of"]

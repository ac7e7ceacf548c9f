"""What one instance last said to the controller, and how a planner sees it. Owns nothing that outlives the stream."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import Role
from shoal.router.fleet import Host, Job, Phase

PREFILL_S_PER_TOKEN = 1e-4  # until measured
SMOOTHING = 0.2


@dataclass(slots=True)
class Sight:
    """`residents_s`: of the instance's clock, when it told its requests last."""

    welcome: pb.Welcome
    load: pb.Load
    residents: list[pb.Resident] = field(default_factory=list)
    residents_s: float = 0.0
    prefill_s_per_token: float = PREFILL_S_PER_TOKEN
    empty_since_s: float | None = None

    @property
    def kind(self) -> str:
        """Only instances of one kind may exchange requests."""
        one = self.welcome
        return f"{one.model} {one.vllm_version} {one.block_size} {one.hash_seed}"

    def hear(self, report: pb.StepReport, now_s: float) -> None:
        if report.HasField("load"):
            self.load = report.load
        if report.has_residents:
            self._measure_prefill(report)
            self.residents, self.residents_s = list(report.residents), report.sent_s
        if self.load.running or self.load.waiting or self.residents:
            self.empty_since_s = None
        elif self.empty_since_s is None:
            self.empty_since_s = now_s

    def _measure_prefill(self, report: pb.StepReport) -> None:
        """Of requests that were in prefill in both pictures: tokens that all of them got, over the time between."""
        before = {one.request_id: one.computed_tokens for one in self.residents if not one.output_tokens}
        now = [one for one in report.residents if not one.output_tokens and before.get(one.request_id)]
        tokens = sum(max(one.computed_tokens - before[one.request_id], 0) for one in now)
        if tokens and self.residents_s:
            measured = (report.sent_s - self.residents_s) / tokens
            self.prefill_s_per_token += SMOOTHING * (measured - self.prefill_s_per_token)

    def host(
        self, slot_id: str, *, draining: bool, placeable: bool, resting: Container[str], role: Role = Role.MIXED
    ) -> Host:
        """`resting`: requests whose last move failed a moment ago."""
        return Host(
            id=slot_id,
            block_size=max(self.welcome.block_size, 1),
            total_blocks=self.load.total_blocks or self.welcome.total_blocks,
            free_blocks=self.load.free_blocks,
            jobs=tuple(self._job(one, one.request_id in resting) for one in self.residents),
            max_running=self.welcome.max_num_seqs or 1 << 30,
            step_s=self.load.step_ms / 1000,
            prefill_s_per_token=self.prefill_s_per_token,
            kind=self.kind,
            draining=draining,
            placeable=placeable,
            role=role,
        )

    def _job(self, one: pb.Resident, rests: bool) -> Job:
        return Job(
            request_id=one.request_id,
            frontend=one.frontend,
            epoch=one.epoch,
            phase=Phase(one.state),
            blocks=one.blocks,
            prompt_tokens=one.prompt_tokens,
            output_tokens=one.output_tokens,
            computed_tokens=one.computed_tokens,
            max_new_tokens=one.max_new_tokens,
            priority=one.priority,
            age_s=max(self.residents_s - one.since_s, 0.0),
            moves=one.moves,
            unmovable=one.unmovable or ("its last move failed" if rests else ""),
        )


__all__ = ["Sight"]

"""Did a request get what was promised? Pure. The goals are those of the benchmarks: time to first token against the
request's own prefill on an idle instance, time per output token against the decode step of a lone request.
"""

from __future__ import annotations

from enum import Enum

from shoal.proto.config import SloConfig

TTFT_PREFILLS = 2.0
TPOT_STEPS = 3.0


class Attainment(Enum):
    MET = "met"
    TTFT = "ttft"  # the first token came late
    TPOT = "tpot"  # the rest came slowly


def service_class(priority: int) -> str:
    """Smaller is served first."""
    return "high" if priority < 0 else "low" if priority > 0 else "normal"


def ttft_goal_s(slo: SloConfig, uncached_tokens: int) -> float:
    return slo.ttft_base_s + TTFT_PREFILLS * uncached_tokens * slo.prefill_ms_per_token / 1e3


def attainment(slo: SloConfig, *, uncached_tokens: int, ttft_s: float, tpot_s: float) -> Attainment:
    if ttft_s > ttft_goal_s(slo, uncached_tokens):
        return Attainment.TTFT
    return Attainment.TPOT if tpot_s > TPOT_STEPS * slo.decode_step_ms / 1e3 else Attainment.MET


__all__ = ["Attainment", "attainment", "service_class", "ttft_goal_s"]

"""What was learned of the future, as decisions read it: frozen values, made by those who learn (`output_lengths`,
`step_fit`) and handed to the view by whoever owns them. Without any, decisions rest on the present alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.router.arrays import Floats


@dataclass(frozen=True, slots=True)
class StepCoefficients:
    """An engine step takes a + b*P + c*sum(p*ctx + p*p/2)/1e6 + d*D + e*KV/1000 ms: P prefill tokens in chunks p, D
    decodes that read KV tokens. The default is a fit to Llama-3.1-8B on an A100."""

    a_ms: float = 10.79
    b_ms: float = 0.0510
    c_ms: float = 2.883
    d_ms: float = 0.0425
    e_ms: float = 0.0862


@dataclass(frozen=True, slots=True)
class Foresight:
    """`shares` of the running requests, rising to 1, have at least `remaining_tokens` (as long, falling) to go; empty:
    not known yet. `new_tokens`: what a request generates of which nothing is predicted."""

    step: StepCoefficients = field(default_factory=StepCoefficients)
    shares: Floats = field(default_factory=lambda: np.zeros(0))
    remaining_tokens: Floats = field(default_factory=lambda: np.zeros(0))
    new_tokens: float = 256.0


__all__ = ["Foresight", "StepCoefficients"]

"""Learns from every request of one frontend what decisions want to know of the future: the length of each answer
before it starts, how much longer those that run will go on, and what a step takes."""

from __future__ import annotations

from dataclasses import replace

from shoal.router.contract import InstanceLoad, RouteRequest
from shoal.router.foresight import Foresight
from shoal.router.length import LengthModel, Reliability
from shoal.router.output_lengths import OutputLengths
from shoal.router.step_fit import StepFit

REFRESH = 32  # requests that end between two looks at the window
CHECKED = 4  # one of so many is used to see how true the words are
LOOKED_AT = 8  # one of so many reports: they are many, and steps change slowly
ENOUGH = 64  # ended requests before anything is predicted


class Foreseer:
    """Sole owner of the length model and its window. `reliability` counts how true the model's words came. Without a
    model nothing is said of single requests."""

    def __init__(
        self, model: LengthModel | None, foresight: Foresight | None = None, fit: StepFit | None = None
    ) -> None:
        """`foresight`: what is known beforehand. Without `fit` the step times in it stay as they are."""
        self.model, self.fit, self.foresight = model, fit, foresight or Foresight()
        self.window, self.reliability = OutputLengths(), Reliability()
        self._ended, self._reports = 0, 0

    def predicted(self, request: RouteRequest) -> RouteRequest:
        if self.model is None or self._ended < ENOUGH:
            return request
        chances = self.model.predict(request)
        return replace(request, expected_new_tokens=self.model.expected(chances, request.max_new_tokens))

    def ended(self, request: RouteRequest, new_tokens: int, *, over: bool) -> None:
        """`over`: it ended by itself, not by its limit nor by force."""
        if self.model is not None:
            if over and self._ended >= ENOUGH and self._ended % CHECKED == 0:
                self.reliability.add(self.model.predict(request), self.model.bucket(new_tokens))
            self.model.learn(request, new_tokens, over=over)
        self.window.ended(new_tokens)
        self._ended += 1
        if self._ended % REFRESH == 0:
            self.foresight = self.window.foresee(self.foresight)
            if self.fit is not None:
                self.foresight = replace(self.foresight, step=self.fit.coefficients)

    def reported(self, load: InstanceLoad) -> None:
        """An instance that only decodes tells what its steps take; how much of a prompt a step computed, none does."""
        decodes_only = load.running and not load.waiting and not load.uncached_prefill_tokens
        if self.fit is None or not decodes_only or load.step_ms <= 0:
            return
        self._reports += 1
        if self._reports % LOOKED_AT == 0:
            self.fit.observe(
                prefill_tokens=0,
                prefill_pairs=0,
                decodes=load.running,
                context_tokens=load.context_tokens,
                step_ms=load.step_ms,
            )


__all__ = ["ENOUGH", "REFRESH", "Foreseer"]

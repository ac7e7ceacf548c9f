"""One instance on the virtual clock: the step model, the step in flight, and what waits for its end.

The shell that the stepper is in production, with time as an argument: commands are performed between steps, each step
ends with the reports that are due, then the next one starts. Where the model says that nothing but decodes lies ahead,
many steps are one event; whoever comes in meanwhile cuts that stretch at the next step's end, as if every step had been
an event. Step by step (`fast` False) the same happens, and the same is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shoal.bench.sim.channel import Channel, Report
from shoal.bench.sim.events import Act, Events
from shoal.bench.sim.request import SimRequest
from shoal.bench.sim.step_window import StepWindow
from shoal.instance.block_keys import ListedKeys
from shoal.instance.model_request import ModelRequest
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import StepTime, StepWork
from shoal.instance.stepper import IDLE_STEP_S
from shoal.instance.stretch import Stretch
from shoal.router.contract import InstanceLoad, Role

Said = Callable[[SimRequest, float], None]


class SimInstance:
    """Owns its step model, and one channel per frontend; `inboxes` are the other ends. `on_first` and `on_last` hear of
    a request's first and last token when it is made."""

    def __init__(
        self,
        name: str,
        model: StepModel,
        step_time: StepTime,
        events: Events,
        *,
        inboxes: Sequence[Callable[[Report], None]],
        on_first: Said,
        on_last: Said,
        report_delay_s: float = 0.0,
        fast: bool = True,
    ) -> None:
        self.name, self.model, self.step_time, self.events, self.fast = name, model, step_time, events, fast
        self.on_first, self.on_last, self.report_delay_s = on_first, on_last, report_delay_s
        self.inboxes, self.channels = inboxes, [Channel(events.now_s) for _ in inboxes]
        self.requests: dict[str, tuple[SimRequest, ModelRequest]] = {}
        self.draining = False
        self.role = Role.MIXED
        self.steps = self.preemptions = 0
        self._window = StepWindow()
        self._asked: list[tuple[Act, Any]] = []
        self._performing = False
        self._flight: Stretch | None = None  # None: no step is in flight
        self._flight_steps = 0  # 0: one scheduled step
        self._version = 0  # of what lies ahead: an event of another version was overtaken
        self._go_on(events.now_s)

    # -- commands

    def ask(self, now_s: float, act: Act, argument: Any = None) -> None:
        """`act(time, argument)` between two steps: at once, or when the step in flight ends."""
        self._asked.append((act, argument))
        if self._performing:
            return
        if self._flight is None:
            self._go_on(now_s)
        elif self._flight_steps > 1:
            self._fly(self._flight, min(self._flight_steps, self._flight.steps_until(now_s)))

    def submit(self, now_s: float, request: SimRequest) -> None:
        self.ask(now_s, self.add, request)

    def abort(self, now_s: float, request_id: str) -> None:
        self.ask(now_s, self.release, request_id)

    def add(self, now_s: float, request: SimRequest, delivered: int = 0) -> None:
        """Between two steps; `submit` from anywhere."""
        model = self.model_of(request, delivered)
        self.model.add(model)
        self._hold(now_s, request, model)

    def model_of(self, request: SimRequest, delivered: int = 0) -> ModelRequest:
        return ModelRequest(
            request.request_id,
            prompt_tokens=request.prompt_tokens,
            max_new=request.output_tokens,
            delivered=delivered,
            priority=request.priority,
            arrival_s=request.arrival_s,
            keys=ListedKeys(request.names),
        )

    def _hold(self, now_s: float, request: SimRequest, model: ModelRequest) -> None:
        request.since_s = now_s
        self.requests[request.request_id] = request, model
        channel = self.channels[request.frontend]
        channel.accepted.append(request.request_id)
        channel.streaming += model.output_tokens > 0

    # -- what a move asks, between two steps

    def take_over(self, now_s: float, request: SimRequest, model: ModelRequest) -> None:
        """One whose KV has come: it was parked, and runs from here on."""
        self.model.unpark(model)
        self._hold(now_s, request, model)

    def release(self, now_s: float, request_id: str) -> None:
        """It is somebody else's, or nobody's."""
        if request_id in self.requests:
            request, model = self.requests.pop(request_id)
            request.preemptions += model.preemptions
            self.channels[request.frontend].streaming -= model.output_tokens > 0
            self.model.remove(model)

    def catch_up(self, now_s: float) -> None:
        """Count the steps of a stretch that have ended by now, so that the model can be looked at."""
        stretch, planned = self._flight, self._flight_steps
        if stretch is None or planned < 2:
            return
        ended = stretch.steps_until(now_s)
        ended -= stretch.end_s(ended) > now_s
        if 0 < ended < planned:
            self.model.skip(ended)
            self._window.add(stretch, ended)
            self.steps += ended
            self._fly(Stretch(stretch.end_s(ended), stretch.step_ms(ended), stretch.growth_ms), planned - ended)

    def stop(self) -> None:
        """It has left: nothing happens here any more."""
        self._version += 1

    @property
    def step_ms(self) -> float:
        """The median of the last steps."""
        return self._window.median_ms()

    @property
    def kv_use(self) -> float:
        """Share of blocks that requests hold."""
        load = self.model.load()
        return 1 - load.free_blocks / load.total_blocks

    # -- steps

    def _go_on(self, now_s: float) -> None:
        """Between two steps: perform what was asked, start the next step if there is work, else sleep."""
        if self._asked:
            self._perform_all(now_s)
        steps = self.model.quiet_steps() if self.fast else 0
        if steps:
            running = self.model.running
            context_tokens = sum([request.computed for request in running])
            first_ms = self.step_time.step_ms(StepWork(0, 0.0, len(running), context_tokens))
            stretch = Stretch(now_s, first_ms, self.step_time.growth_ms * len(running))
            due_s = min([channel.due_s() for channel in self.channels])
            if stretch.end_s(steps) > due_s:
                steps = stretch.steps_until(due_s)
            self._fly(stretch, steps)
        elif self.model.has_work():
            self._schedule(now_s)
        else:
            self._sleep(now_s)

    def _perform_all(self, now_s: float) -> None:
        """What is asked by an act comes after it."""
        self._performing = True
        while self._asked:
            asked, self._asked = self._asked, []
            for act, argument in asked:
                act(now_s, argument)
        self._performing = False
        self._note_news()

    def _schedule(self, now_s: float) -> None:
        waiting = len(self.model.waiting)
        plan = self.model.schedule()
        self.preemptions += len(plan.preempted)
        if plan.prefills or len(self.model.waiting) != waiting:
            self._note_news()
        if plan:
            self._fly(Stretch(now_s, self.step_time.step_ms(plan.work()), 0.0), 0)
        elif plan.preempted:  # the first in line gave way itself, and the others' turn comes in the next step
            self._fly(Stretch(now_s, IDLE_STEP_S * 1000, 0.0), 0)
        else:  # parked requests hold what the next one needs
            self.model.complete()
            self._sleep(now_s)

    def _fly(self, stretch: Stretch, steps: int) -> None:
        self._flight, self._flight_steps = stretch, steps
        self._version += 1
        self.events.at(stretch.end_s(steps or 1), self._land, self._version)

    def _land(self, now_s: float, version: int) -> None:
        if version != self._version or self._flight is None:
            return
        steps = self._flight_steps
        self._window.add(self._flight, steps or 1)
        self.steps += steps or 1
        self._flight = None
        if steps:
            finished = self.model.skip(steps)
        else:
            sampled, finished = self.model.complete()
            for model in sampled:
                if model.tokens == model.prompt_tokens + 1:
                    self._first(model, now_s)
        if finished:
            self._note_news()
            for model in finished:
                self._last(model, now_s)
        self._report(now_s)
        self._go_on(now_s)

    def _first(self, model: ModelRequest, now_s: float) -> None:
        request, _ = self.requests[model.request_id]
        channel = self.channels[request.frontend]
        channel.started.append(request.request_id)
        channel.streaming += 1
        request.cached_tokens = model.cached_tokens
        self.on_first(request, now_s)

    def _last(self, model: ModelRequest, now_s: float) -> None:
        request, _ = self.requests.pop(model.request_id)
        channel = self.channels[request.frontend]
        channel.ended.append(request.request_id)
        channel.streaming -= 1
        request.preemptions += model.preemptions
        self.on_last(request, now_s)

    # -- reports

    def _sleep(self, now_s: float) -> None:
        """Idle. It still reports what is new, and that it lives."""
        self._version += 1
        due_s = min([channel.due_s() for channel in self.channels])
        self.events.at(max(now_s, due_s), self._wake, self._version)

    def _wake(self, now_s: float, version: int) -> None:
        if version == self._version and self._flight is None:
            self._report(now_s)
            self._sleep(now_s)

    def _note_news(self) -> None:
        for channel in self.channels:
            channel.news = True

    def _report(self, now_s: float) -> None:
        load = None
        for channel, inbox in zip(self.channels, self.inboxes, strict=True):
            if now_s >= channel.due_s():
                if load is None:
                    load = self._load()
                inbox(channel.take(self.name, load, now_s, self.report_delay_s))

    def _load(self) -> InstanceLoad:
        changes = self.model.blocks.take_changes()
        if changes:
            for channel in self.channels:
                channel.changes += changes
        load = self.model.load()
        return InstanceLoad(
            load.running,
            load.waiting,
            load.queued_prefill_tokens,
            load.uncached_prefill_tokens,
            load.context_tokens,
            load.free_blocks,
            self.step_ms,
            self.draining,
        )


__all__ = ["SimInstance"]

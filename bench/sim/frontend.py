"""One frontend on the virtual clock: the production view, admission queue and placement, fed by reports that take time.

What the dispatcher is in production, without sockets. Reports are looked at when something is to be decided, in the
order and with the times at which they arrived: nobody could tell the difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random

from shoal.bench.sim.channel import Report
from shoal.bench.sim.events import Events
from shoal.bench.sim.request import End, SimRequest
from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import InvalidArgument, Overloaded
from shoal.router.admission import AdmissionQueue
from shoal.router.contract import Placement, Rejection, RouteRequest, Traits, Wait
from shoal.router.foreseer import Foreseer
from shoal.router.place import Policy, place
from shoal.router.roles import Pairs
from shoal.router.view import ClusterView

TICK_S = 0.05

Send = Callable[[SimRequest, float], None]
Ended = Callable[[SimRequest, End, float], None]
PlanMove = Callable[[SimRequest, str, float], None]


class SimFrontend:
    """Owns its view, its queue and every request of its own until that has ended. `send` takes a request to the
    instance that it names; `abandon` takes one that has run out of time away from there."""

    def __init__(
        self,
        number: int,
        events: Events,
        policy: Policy,
        limits: AdmissionConfig,
        rng: Random,
        *,
        block_size: int,
        send: Send,
        abandon: Send,
        ended: Ended,
        foreseer: Foreseer,
    ) -> None:
        self.number, self.events, self.policy, self.rng = number, events, policy, rng
        self.block_size, self.send, self.abandon, self.ended = block_size, send, abandon, ended
        self.view, self.admission, self.foreseer = ClusterView(), AdmissionQueue(limits), foreseer
        self.view.foresight = foreseer.foresight
        self.requests: dict[str, tuple[SimRequest, RouteRequest]] = {}
        self.pairs = Pairs()
        self.plan_move: PlanMove | None = None  # where requests can be handed over
        self.inbox: deque[Report] = deque()
        self._tick_s = float("inf")

    # -- what comes in

    def arrive(self, now_s: float, request: SimRequest) -> None:
        self.catch_up(now_s)
        request.frontend = self.number
        try:
            route = self.foreseer.predicted(self.view.programs.known(self._route(request)))
            self.admission.offer(route, now_s)
        except Overloaded:
            return self.ended(request, End.OVERLOADED, now_s)
        except InvalidArgument:
            return self.ended(request, End.REFUSED, now_s)
        self.requests[request.request_id] = request, route
        self._pump(now_s)

    def _route(self, request: SimRequest) -> RouteRequest:
        return RouteRequest(
            request.request_id,
            context_tokens=request.prompt_tokens,
            max_new_tokens=request.max_new_tokens,
            block_hashes=tuple(request.names[: request.prompt_tokens // self.block_size]),
            tenant=request.tenant,
            priority=request.priority,
            arrived_s=request.arrival_s,
            traits=Traits(request.kind),
            program=request.program,
        )

    def hear(self, report: Report) -> None:
        self.inbox.append(report)
        if self.admission.queued_requests:
            self.events.at(report.arrives_s, self._on_report)

    def _on_report(self, now_s: float, _: None) -> None:
        self.catch_up(now_s)
        if self.admission.queued_requests:
            self._pump(now_s)

    def catch_up(self, now_s: float) -> None:
        """Look at all reports that have arrived."""
        inbox = self.inbox
        while inbox and inbox[0].arrives_s <= now_s:
            self._observe(inbox.popleft())

    def _observe(self, report: Report) -> None:
        view, at_s = self.view, report.arrives_s
        for request_id in report.accepted:
            view.acknowledged(request_id)
        for request_id in report.started:
            view.first_token(request_id)
            self.admission.started(request_id, at_s)
        for request_id in report.ended:
            self.pairs.over(request_id)
            view.finish(request_id)
            self._learn(request_id, at_s)
        view.observe(report.instance, report.load, at_s)
        for change, names in report.changes:
            view.block_changes(report.instance, change.value, names)  # type: ignore[arg-type]

    def _learn(self, request_id: str, at_s: float) -> None:
        if request_id in self.requests:
            request, route = self.requests.pop(request_id)
            over = request.output_tokens < request.max_new_tokens
            self.view.programs.ended(route, request.output_tokens, at_s)
            self.foreseer.ended(route, request.output_tokens, over=over)
            self.view.foresight = self.foreseer.foresight

    # -- placement

    def _pump(self, now_s: float) -> None:
        """Place whatever can be placed, in the queue's order."""
        for route in self.admission.queued():
            match place(route, self.view, self.policy, now_s, self.rng):
                case Placement() as placement:
                    self._place(route, placement, now_s)
                case Rejection():
                    self.admission.withdraw(route.request_id, now_s)
                    self.ended(self.requests.pop(route.request_id)[0], End.REFUSED, now_s)
                case Wait(holds_up=True):
                    break
        self._set_tick(now_s)

    def _place(self, route: RouteRequest, placement: Placement, now_s: float) -> None:
        self.admission.take(route.request_id)
        self.view.book(route, placement, now_s)
        request, _ = self.requests[route.request_id]
        request.instance, request.placed_s = placement.instance, now_s
        self.send(request, now_s)
        if self.plan_move is not None:
            target = self.pairs.choose(route, self.view.snapshot(), placement.instance)
            if target is not None:
                self.plan_move(request, target, now_s)

    def hand_over(self, request: SimRequest, target: str, tokens: int, cached_tokens: int, now_s: float) -> None:
        """It has moved: from now on it counts there."""
        self.catch_up(now_s)
        _, route = self.requests[request.request_id]
        route = replace(route, context_tokens=tokens)
        self.view.book(route, Placement(target, cached_tokens), now_s)
        request.instance = target

    # -- time

    def _set_tick(self, now_s: float) -> None:
        """Soon while somebody waits for a place, else when somebody's time may be up."""
        if self.admission.queued_requests:
            tick_s = now_s + TICK_S
        elif self._tick_s == float("inf"):
            tick_s = self.admission.next_expiry_s()
        else:
            return
        if tick_s < self._tick_s:
            self._tick_s = tick_s
            self.events.at(tick_s, self._tick, tick_s)

    def _tick(self, now_s: float, tick_s: float) -> None:
        if tick_s != self._tick_s:
            return
        self._tick_s = float("inf")
        self.catch_up(now_s)
        for request_id in self.admission.expire(now_s):
            self.pairs.over(request_id)
            self.view.finish(request_id)
            request, _ = self.requests.pop(request_id)
            self.abandon(request, now_s)
            self.ended(request, End.EXPIRED, now_s)
        self._pump(now_s)


__all__ = ["SimFrontend"]

"""vLLM's scheduler with a place for requests that are on their way: parked ones, which keep their blocks and run slot
but are in no batch, and slots promised to requests that are about to come.

`ParkingScheduler` and `AsyncParkingScheduler` are what vLLM would have picked, plus that. One that has come is let into
the very next step: prompts that are still being computed leave it that step's budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from shoal.instance.vllm_seam import (
    AsyncScheduler,
    PauseState,
    Request,
    RequestStatus,
    Scheduler,
    SchedulerOutput,
)


class ParkingScheduler(Scheduler):
    """Owns `parked` (by request id) and `promised`, the number of run slots kept for requests yet to be added."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parked: dict[str, Request] = {}
        self.promised = 0
        self.slots = self.max_num_active_reqs
        self.scheduled_tokens = 0  # of the newest step

    def park(self, request: Request) -> bool:
        """False: tokens of it are in flight; it is in no further batch, ask again after the next step."""
        if request.request_id not in self.parked:
            self._take_out(request)
            request.spec_token_ids = []
            self.parked[request.request_id] = request
        return request.num_in_flight_tokens == 0

    def _take_out(self, request: Request) -> None:
        if request.status == RequestStatus.RUNNING:
            self.running.remove(request)
            return
        self.waiting.remove_requests([request])
        self.kv_holding_waiting.remove_requests([request])
        self.deferred_waiting.discard(request)

    def unpark(self, request_id: str) -> None:
        """A waiting one returns to its place, which its priority and arrival give. Unknown ids are ignored."""
        request = self.parked.pop(request_id, None)
        if request is None:
            return
        if request.status == RequestStatus.RUNNING:
            self.running.append(request)
        else:
            self._enqueue_waiting_request(request)

    def slots_away(self) -> int:
        """Run slots that are neither free nor in use by `running`."""
        return self.promised + sum(request.status == RequestStatus.RUNNING for request in self.parked.values())

    def promise_slot(self) -> bool:
        taken = len(self.running) + len(self.kv_holding_waiting) + self.slots_away()
        self.promised += taken < self.slots
        return taken < self.slots

    def rename(self, request: Request, request_id: str) -> None:
        """Of a request that was never added: its blocks go with it."""
        for manager in self.kv_cache_manager.coordinator.single_type_managers:
            for table in (manager.req_to_blocks, manager.num_cached_block):
                if request.request_id in table:
                    table[request_id] = table.pop(request.request_id)
        request.request_id = request_id

    # -- vLLM's

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self.max_num_active_reqs = self.slots - self.slots_away()
        with self._prompts_aside() if self._someone_has_come() else nullcontext():
            output = super().schedule(throttle_prefills)
        self.scheduled_tokens = output.total_num_scheduled_tokens
        return output

    def _someone_has_come(self) -> bool:
        return bool(self.kv_holding_waiting) and any(
            request.num_tokens - request.num_computed_tokens == 1
            and not self._is_blocked_waiting_status(request.status)
            for request in self.kv_holding_waiting
        )

    @contextmanager
    def _prompts_aside(self) -> Iterator[None]:
        """For one step, nothing but decodes: running prompts would use up the budget, new ones start after it."""
        before, pause = self.running, self.pause_state
        aside = {request for request in before if request.is_prefill_chunk}
        self.running = [request for request in before if request not in aside]
        self.max_num_active_reqs -= len(aside)
        self._pause_state = max(pause, PauseState.PAUSED_NEW)
        try:
            yield
        finally:
            stay = aside.union(self.running)
            came = [request for request in self.running if request not in set(before)]
            self.running = [request for request in before if request in stay] + came
            self._pause_state = pause

    def has_finished_requests(self) -> bool:
        """With a connector vLLM takes whatever is in no queue for work: it would spin on a parked one."""
        if self.finished_req_ids or self.connector is None:
            return bool(self.finished_req_ids)
        return len(self.requests) > sum(self.get_request_counts()) + len(self.parked)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        self.parked.pop(request.request_id, None)
        return super()._free_request(request, delay_free_blocks)


class AsyncParkingScheduler(ParkingScheduler, AsyncScheduler):
    """The same over vLLM's asynchronous one, which its place between the two makes the base."""


def scheduler_path(async_scheduling: bool) -> str:
    """What vLLM's configuration takes: a name, so that it can be sent to worker processes."""
    chosen = AsyncParkingScheduler if async_scheduling else ParkingScheduler
    return f"{__name__}.{chosen.__name__}"


__all__ = ["AsyncParkingScheduler", "ParkingScheduler", "scheduler_path"]

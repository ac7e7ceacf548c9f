"""What a move needs of the instance that it leaves or comes to; and the threads that it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from shoal.instance.holdings import Held, Holdings
from shoal.instance.seam import Engine
from shoal.instance.stepper import Stepper
from shoal.proto.v1 import instance_pb2 as pb

T = TypeVar("T")


class Home(Protocol):
    """`clock`: monotonic seconds. Everything is called on the event loop."""

    instance_id: str
    engine: Engine
    stepper: Stepper
    holdings: Holdings
    clock: Callable[[], float]
    draining: bool

    def tell(self, watcher: int | None, frame: pb.Down) -> None:
        """Ignored for a stream that has ended."""

    def run_here(self, held: Held, run: Callable[[], None]) -> bool:
        """Hold it for its watcher, then have the step thread `run` it; whoever fails is refused. False: it is here."""


class Copier:
    """The one thread that reads and writes blocks, in the order in which it is asked to."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="block-copy")

    async def run(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    async def idle(self) -> None:
        """What was asked before is over."""
        await self.run(lambda: None)

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


async def on_step_thread(home: Home, act: Callable[[], T]) -> T:
    """Between two steps. Raises what `act` raises, or EngineDied."""
    return await asyncio.wrap_future(home.stepper.ask(act))


__all__ = ["Copier", "Home", "on_step_thread"]

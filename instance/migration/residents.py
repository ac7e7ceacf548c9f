"""What the controller hears of the requests here: the engine's sight of each, and for whom it is held."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.instance.holdings import Holdings
from shoal.instance.mover import Sight
from shoal.proto.v1 import instance_pb2 as pb


def residents_frame(sights: Iterable[Sight], holdings: Holdings) -> list[pb.Resident]:
    """Requests that an open stream owns: nobody else's can be moved."""
    residents = []
    for sight in sights:
        held = holdings.by_engine_id.get(sight.engine_id)
        if held is None or held.watcher is None:
            continue
        residents.append(
            pb.Resident(
                request_id=held.request_id,
                epoch=held.epoch,
                frontend=held.frontend,
                state=sight.phase.value,
                priority=sight.priority,
                prompt_tokens=sight.prompt_tokens,
                output_tokens=sight.output_tokens,
                computed_tokens=sight.computed_tokens,
                blocks=sight.blocks,
                max_new_tokens=sight.max_new_tokens,
                tenant=held.tenant,
                lora=sight.lora,
                unmovable=sight.unmovable,
                moves=held.moves,
                since_s=held.since_s,
            )
        )
    return residents


__all__ = ["residents_frame"]

"""Takes the pictures in docs/console.md: `PYTHONPATH=. python docs/console_shots.py`. Needs Chromium.

A cluster of eight fake engines under a mixed load; the first picture is taken while a request flies.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from tests.tools.chromium import chromium
from tests.tools.console_stage import Stage, stage

IMAGES = Path(__file__).parent / "images"
FLYING_S = 0.45
LANDED_S = 2.0
FAKE = {"a_ms": 30.0, "total_blocks": 520}


async def crowd(one: Stage, count: int) -> None:
    rng = random.Random(5)
    for number in range(count):
        one.begin(number, rng.randint(60, 1900), rng.randint(300, 2400))
        await asyncio.sleep(0.06)


def move(one: Stage, source: str, target: str) -> str:
    """Whichever decodes there and does not move yet."""
    tickets = one.frontend.dispatcher.journal.tickets
    request_id = next(
        name for name, ticket in tickets.items() if ticket.owner == source and ticket.delivered and not ticket.moves
    )
    one.cluster.controller.planner.begin_by_hand(request_id, target)
    return request_id


async def shoot(scheme: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with chromium(folder) as page, stage(folder, 8, fake=FAKE, engine={"max_num_seqs": 16}) as one:
            await page.open(one.url, scheme=scheme, width=1480, height=860)
            await crowd(one, 84)
            for source, target in (("i2", "i7"), ("i3", "i0"), ("i4", "i5")):
                move(one, source, target)
            await page.until("document.querySelectorAll('#moves li').length === 3")
            await asyncio.sleep(LANDED_S)
            request_id = move(one, "i1", "i6")
            if scheme == "dark":
                await page.until("document.querySelectorAll('#moves li').length === 4")
                await asyncio.sleep(LANDED_S)
                await page.run(f"document.querySelector('[data-request={request_id}]').click()")
                await page.until("document.querySelectorAll('#story table').length === 2")
            else:
                await page.until("document.querySelector('.flyer') !== null")
                await asyncio.sleep(FLYING_S)
            await page.picture(IMAGES / f"console-{scheme}.png")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for colours in ("light", "dark"):
        asyncio.run(shoot(colours))

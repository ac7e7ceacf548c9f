"""The console in a real Chromium: it loads without a complaint in light and in dark, shows a move while it happens,
tells why a request is where it is, and acts with a key only.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.tools.chromium import chromium
from tests.tools.console_stage import Stage, stage

pytestmark = pytest.mark.servers
SEEN_S = 1.0
WATCH = """
window.flights = [];
new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach((node) => {
  if (node.className === "flyer") flights.push([node.dataset.request, performance.timeOrigin + performance.now()]);
}))).observe(document.body, {childList: true});
"""
FISHES = "document.querySelectorAll('.fish').length"
SAID = "document.querySelector('#said').textContent"


def host_of(one: Stage, request_id: str) -> str:
    return str(one.frontend.dispatcher.journal.tickets[request_id].owner)


def give_key(key: str) -> str:
    return (
        f"document.querySelector('#key').click(); document.querySelector('#given').value = '{key}';"
        "document.querySelector('#use').click();"
    )


async def test_a_move_is_seen_within_a_second_explained_and_asked_for_with_a_key_only(tmp_path: Path) -> None:
    async with chromium(tmp_path) as page, stage(tmp_path, fake={"a_ms": 20.0}) as one:
        await page.open(one.url, scheme="light")
        for number in range(4):
            one.begin(number, 300, 2000)
        await page.until(f"{FISHES} === 4")
        await page.run(WATCH)

        moved = "f1-1"
        source = host_of(one, moved)
        target = {"i0": "i1", "i1": "i0"}[source]
        one.cluster.controller.planner.begin_by_hand(moved, target)
        ticket = one.frontend.dispatcher.journal.tickets[moved]
        while not ticket.moves:
            await asyncio.sleep(0.001)
        committed_s = time.time()
        request_id, seen_ms = await page.until("window.flights[0]")
        assert request_id == moved and seen_ms / 1e3 - committed_s < SEEN_S
        await page.until(f"document.querySelector('[data-instance={target}] [data-request={moved}]') !== null")

        await page.run(f"document.querySelector('[data-request={moved}]').click()")
        await page.until("document.querySelectorAll('#story table').length === 2")
        for words in ("moved: person", "placed", f"on {target}: decode"):
            await page.until(f"document.querySelector('#story').innerText.includes('{words}')")

        move_it = "document.querySelector('#story .act')"
        assert await page.run(f"{move_it}.disabled"), "no key, no act"
        await page.run(give_key("wrong"))
        await page.run(f"document.querySelector('#story select').value = '{source}'; {move_it}.click()")
        await page.until(f"{SAID}.includes('missing or wrong')")
        assert host_of(one, moved) == target and len(ticket.moves) == 1
        await page.run(give_key(one.cluster.token))
        await page.run(f"{move_it}.click()")
        await page.until(f"{SAID}.includes('committed')")
        assert host_of(one, moved) == source

        role = "document.querySelector('[data-instance=i1] .chip')"
        await page.run(f"{role}.value = 'decode'; {role}.dispatchEvent(new Event('change'))")
        await page.until(f"{SAID}.includes('i1 decode')")
        await page.until(f"{role}.value === 'decode'")
        assert one.cluster.controller.roles == {"i1": "decode"}

        await page.run("document.querySelector('[data-instance=i1] .act').click()")  # asks whether it is sure
        await page.run("document.querySelector('[data-instance=i1] .act').click()")
        await page.until("document.querySelectorAll('.tank').length === 1")
        assert list(one.cluster.controller.slots) == ["i0"]
        refused = [error for error in page.errors if "401" in error]
        assert page.errors == refused and len(refused) == 1, "the wrong key's, and nothing else"
        assert {address.split("/")[2] for address in page.asked} == {one.url.split("/")[2]}


async def test_it_loads_without_a_complaint_and_reads_well_in_light_and_in_dark(tmp_path: Path) -> None:
    async with chromium(tmp_path) as page, stage(tmp_path) as one:
        for scheme in ("light", "dark"):
            await page.open(one.url, scheme=scheme)
            await page.until("document.querySelectorAll('.tank').length === 2")
            assert await page.until("document.querySelector('#live').className") == "here"
            dark = await page.run("matchMedia('(prefers-color-scheme: dark)').matches")
            assert dark == (scheme == "dark")
            for selector in ("body", ".sums dt", ".tank h3", ".tank footer", ".tank .state", "aside h2", ".legend"):
                assert await page.run(CONTRAST.replace("SELECTOR", selector)) >= 4.5, f"{selector} in {scheme}"
            nameless = "[...document.querySelectorAll('button')].filter((b) => !b.innerText && !b.ariaLabel).length"
            assert await page.run(nameless) == 0
        assert page.errors == []


# WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of text and the first ground behind it that is not transparent.
CONTRAST = """(() => {
  const light = (text) => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const one = document.querySelector("SELECTOR");
  let ground = one;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const pair = [light(getComputedStyle(one).color), light(getComputedStyle(ground).backgroundColor)];
  const [a, b] = pair.sort((x, y) => y - x);
  return (a + .05) / (b + .05);
})()"""

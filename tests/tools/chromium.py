"""A real Chromium without a window, spoken to over its DevTools protocol. Notes what a page must not do: an error in
its console, a request to anywhere but the page's own server.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.tools.servers import need_program

START_S = 30.0
ANSWER_S = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--mute-audio")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")
FLAGS += ("--hide-scrollbars",)


class Page:
    """One tab. `errors`: what the browser's console complained of. `asked`: every address that it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            tree = json.loads(message.data)
            if "id" in tree:
                self._answers.pop(tree["id"]).set_result(tree)
                continue
            match tree["method"], tree["params"]:
                case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                    self.errors.append(str(details.get("exception", details))[:500])
                case "Log.entryAdded", {"entry": entry} if entry["level"] == "error":
                    self.errors.append(f"{entry['text']} {entry.get('url', '')}")
                case "Network.requestWillBeSent", {"request": request}:
                    self.asked.append(request["url"])

    async def tell(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        tree = await asyncio.wait_for(answer, ANSWER_S)
        assert "error" not in tree, f"{method}: {tree['error']}"
        return tree["result"]

    async def open(self, url: str, *, scheme: str, width: int = 1360, height: int = 800) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.tell(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.tell("Emulation.setDeviceMetricsOverride", **size)
        await self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.tell("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited. Raises AssertionError for what it throws."""
        done = await self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, within_s: float = 15.0) -> Any:
        """Its value, once that is true."""
        async with asyncio.timeout(within_s):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.02)
        return value

    async def picture(self, path: Path) -> None:
        shot = await self.tell("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Page]:
    """Skipped by name where there is none; fails with SHOAL_REQUIRE_SERVERS=1."""
    program = need_program("chromium")
    words = (*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank")
    with (folder / "chromium.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, *words, stdout=log, stderr=log)
    try:
        port = await _port(folder / "profile" / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                (tab,) = [one for one in await reply.json() if one["type"] == "page"]
            page = Page(await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0))
            try:
                yield page
            finally:
                await page.close()
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), START_S)


async def _port(path: Path) -> int:
    """Where it listens, as it says itself."""
    async with asyncio.timeout(START_S):
        while not path.exists() or not path.read_text().strip():
            await asyncio.sleep(0.05)
    return int(path.read_text().split()[0])


__all__ = ["Page", "chromium"]

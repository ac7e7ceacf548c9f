"""Rare questions to instances, with their answers: who has this orphan, and acts such as loading an adapter.

Owns what waits for an answer. A link that is lost answers nothing: whoever waits for it is told so at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.cluster.link import Link
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import instance_pb2 as pb


@dataclass(slots=True)
class Search:
    """A question to several links. `found` holds the positive answers so far."""

    waiting: set[Link]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    found: list[tuple[Link, pb.Adopted]] = field(default_factory=list)

    def answered(self, link: Link) -> None:
        self.waiting.discard(link)
        if not self.waiting:
            self.done.set()


@dataclass(frozen=True, slots=True)
class Call:
    link: Link
    future: asyncio.Future[str]


class Inquiries:
    def __init__(self) -> None:
        self.searches: dict[str, Search] = {}
        self.calls: dict[int, Call] = {}
        self.last_call_id = 0

    async def find_orphan(
        self, links: Iterable[Link], resume_key: str, tenant: str, timeout_s: float
    ) -> tuple[Link, pb.Adopted] | None:
        """The latest life of that request among the links' instances. None: nobody has it, or it is being asked for
        already.
        """
        asked = set(links)
        if not asked or resume_key in self.searches:
            return None
        search = self.searches[resume_key] = Search(asked.copy())
        try:
            for link in asked:
                link.send(pb.Up(adopt=pb.Adopt(resume_key=resume_key, tenant=tenant)))
            async with asyncio.timeout(timeout_s):
                await search.done.wait()
        except TimeoutError:
            pass  # the others' answers count
        finally:
            del self.searches[resume_key]
        return max(search.found, key=lambda found: found[1].epoch, default=None)

    def on_adopted(self, link: Link, adopted: pb.Adopted) -> None:
        search = self.searches.get(adopted.resume_key)
        if search is not None:
            if adopted.found:
                search.found.append((link, adopted))
            search.answered(link)

    async def call(self, links: Iterable[Link], method: str, arguments_json: str, timeout_s: float) -> list[str]:
        """The JSON answers of all. Raises Unavailable: the first error, or whose answer did not come."""
        asked = {self._call(link, method, arguments_json): link for link in links}
        try:
            async with asyncio.timeout(timeout_s):
                return list(await asyncio.gather(*(self.calls[call_id].future for call_id in asked)))
        except TimeoutError:
            silent = [link.instance_id for call_id, link in asked.items() if call_id in self.calls]
            raise Unavailable(f"{', '.join(silent)} did not answer {method} within {timeout_s:g} s") from None
        finally:
            for call_id in asked:
                self.calls.pop(call_id, None)

    def _call(self, link: Link, method: str, arguments_json: str) -> int:
        self.last_call_id += 1
        self.calls[self.last_call_id] = Call(link, asyncio.get_running_loop().create_future())
        link.send(pb.Up(call=pb.Call(call_id=self.last_call_id, method=method, arguments_json=arguments_json)))
        return self.last_call_id

    def on_reply(self, reply: pb.Reply) -> None:
        call = self.calls.pop(reply.call_id, None)
        if call is None or call.future.done():
            return
        if reply.error:
            call.future.set_exception(Unavailable(reply.error))
        else:
            call.future.set_result(reply.result_json)

    def lose(self, link: Link) -> None:
        for search in self.searches.values():
            search.found = [found for found in search.found if found[0] is not link]
            search.answered(link)
        for call_id in [i for i, call in self.calls.items() if call.link is link]:
            call = self.calls.pop(call_id)
            if not call.future.done():
                call.future.set_exception(Unavailable(f"{link.instance_id} is gone"))


__all__ = ["Inquiries"]

"""A checksum over each frame of the inner protocol, so that a flipped bit ends a stream instead of changing a token.

TCP's 16 bits miss one damaged packet in 65,536, and whatever a proxy or a bad memory module does. Whoever reads a
sealed frame sums up what it understood, not the bytes: damage that changes nothing is none.
"""

import zlib
from collections.abc import AsyncIterator
from typing import TypeVar

from shoal.proto.errors import BadMessage
from shoal.proto.v1 import instance_pb2 as pb

Frame = TypeVar("Frame", pb.Up, pb.Down)


def seal(frame: Frame) -> Frame:
    """The frame itself, sealed. It must not be changed afterwards."""
    frame.seal = 0
    frame.seal = _sum(frame)
    return frame


def is_damaged(frame: pb.Up | pb.Down) -> bool:
    """Or not sealed."""
    given, frame.seal = frame.seal, 0
    whole = given == _sum(frame)
    frame.seal = given
    return not whole


def check_seal(frame: pb.Up | pb.Down) -> None:
    """Raises BadMessage."""
    if is_damaged(frame):
        raise BadMessage(f"{type(frame).__name__}: damaged on the way, or not sealed")


async def checked(frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
    async for frame in frames:
        check_seal(frame)
        yield frame


def _sum(frame: pb.Up | pb.Down) -> int:
    return zlib.crc32(frame.SerializeToString(deterministic=True)) or 1


__all__ = ["check_seal", "checked", "is_damaged", "seal"]

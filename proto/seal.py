"""A number and a checksum on each frame of the inner protocol, so that a flipped bit ends a stream instead of changing
a token or losing a frame in silence.

TCP's 16 bits miss one damaged packet in 65,536, and whatever a proxy or a bad memory module does; and HTTP/2 drops what
a damaged header addresses to a stream that does not exist. Whoever reads a sealed frame sums up what it understood, not
the bytes: damage that changes nothing is none.
"""

import zlib

from shoal.proto.errors import BadMessage
from shoal.proto.v1 import instance_pb2 as pb

Frame = pb.Up | pb.Down | pb.Parcel | pb.Receipt


class Sealer:
    """One direction of one stream, at its writer."""

    def __init__(self) -> None:
        self.count = 0

    def seal(self, frame: Frame) -> None:
        """The next frame to be sent. It must not be changed afterwards."""
        self.count += 1
        frame.number = self.count
        frame.seal = 0
        frame.seal = _sum(frame)


class SealReader:
    """One direction of one stream, at its reader."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, frame: Frame) -> None:
        """Raises BadMessage unless this is, undamaged, the frame that follows the last one."""
        given, frame.seal = frame.seal, 0
        whole = given == _sum(frame)
        frame.seal = given
        if not whole:
            raise BadMessage(f"{type(frame).__name__}: damaged on the way, or not sealed")
        if frame.number != self.count + 1:
            raise BadMessage(f"{type(frame).__name__}: frame {frame.number} came, {self.count + 1} is due")
        self.count += 1


def _sum(frame: Frame) -> int:
    return zlib.crc32(frame.SerializeToString(deterministic=True)) or 1


__all__ = ["Frame", "SealReader", "Sealer"]

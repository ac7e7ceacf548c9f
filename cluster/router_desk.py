"""What people want of learned router weights, at the controller: one value that every frontend is told. Owns nothing
but that value; the stages and what may follow each are `shoal.router.rollout`'s, the files `shoal.router.weights`'.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from shoal.proto.errors import InvalidArgument
from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.pilot import Wanted
from shoal.router.rollout import MOST_SHARE, NEXT, Stage
from shoal.router.weights import read_weights


def wanted_of(said: pb.RouterWanted) -> Wanted:
    """What the controller said, in the router's words. No act yet: nothing is wanted."""
    stage = Stage(said.stage) if said.stage else Stage.OFF
    return Wanted(said.serial, stage, said.weights, said.share, said.why)


class RouterDesk:
    """`wanted` is replaced by each act, never changed."""

    def __init__(self, wanted: pb.RouterWanted | None = None) -> None:
        self.wanted = wanted or pb.RouterWanted(stage=Stage.OFF.value)

    @staticmethod
    def of(raw: bytes) -> RouterDesk:
        """What a controller before this one left; where nobody can read it, nothing is wanted."""
        try:
            return RouterDesk(pb.RouterWanted.FromString(raw) if raw else None)
        except DecodeError:
            return RouterDesk()

    @property
    def raw(self) -> bytes:
        """For the next controller; nothing as long as nobody wanted anything."""
        return self.wanted.SerializeToString() if self.wanted.serial else b""

    def act(self, act: pb.RouterAct) -> bool:
        """True: frontends must hear of it. Raises InvalidArgument for what cannot be."""
        match act.act:
            case "show":
                return False
            case "shadow":
                weights = act.weights or self.wanted.weights
                self._become(Stage.SHADOW, weights, version=read_weights(weights).version, why="published")
            case "canary":
                if not 0 < act.share <= MOST_SHARE:
                    raise InvalidArgument("share", limit=f"above 0, at most {MOST_SHARE}", given=act.share)
                self._become(Stage.CANARY, self.wanted.weights, share=act.share, why=f"{act.share:.0%} of the requests")
            case "rollback":
                stale = act.serial and act.serial != self.wanted.serial
                if stale or self.wanted.stage != Stage.CANARY.value:
                    return False
                self._become(Stage.BACK, self.wanted.weights, why=act.why or "by hand")
            case "withdraw":
                self._become(Stage.OFF, b"", version="", why="withdrawn")
            case other:
                limit = "show, shadow, canary, rollback or withdraw"
                raise InvalidArgument("act", limit=limit, given=other)
        return True

    def _become(
        self, stage: Stage, weights: bytes, *, share: float = 0.0, version: str | None = None, why: str = ""
    ) -> None:
        before = Stage(self.wanted.stage)
        if stage is not before and stage not in NEXT[before]:
            follows = ", ".join(sorted(one.value for one in NEXT[before]))
            raise InvalidArgument("act", limit=f"after {before.value}: {follows}", given=stage.value)
        self.wanted = pb.RouterWanted(
            serial=self.wanted.serial + 1,
            stage=stage.value,
            weights=weights,
            share=share,
            version=self.wanted.version if version is None else version,
            why=why,
        )


__all__ = ["RouterDesk", "wanted_of"]

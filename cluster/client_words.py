"""What a client may say of a request beside its body, over HTTP and gRPC alike: from text to checked values."""

from __future__ import annotations

import re

from shoal.proto.errors import InvalidArgument

PROGRAM = re.compile(r"[A-Za-z0-9._:/-]{0,128}")
CLASSES = {"": False, "interactive": False, "offline": True}
OFFLINE_PRIORITY = 1 << 20  # behind every other: engines preempt these first


def program_of(field: str, given: str) -> str:
    if not PROGRAM.fullmatch(given):
        raise InvalidArgument(field, limit="at most 128 characters of [A-Za-z0-9._:/-]", given=given[:40])
    return given


def is_offline(field: str, given: str) -> bool:
    if given not in CLASSES:
        raise InvalidArgument(field, limit="interactive or offline", given=given[:40])
    return CLASSES[given]


__all__ = ["OFFLINE_PRIORITY", "is_offline", "program_of"]

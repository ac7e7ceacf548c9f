"""Step-time models by name, from coefficients that are part of the project (step_times.json; each entry names its
source), or from a table outside it, by path.

A name is model/accelerator/tensor parallelism. An entry has the coefficients a, b, c, d, e of the linear form and maybe
those of the hinge form with its threshold; `mape_pct` is each form's mean error against its source. They say how a
shape of model and machine behaves, never what somebody's deployment will do: calibrate `overhead_ms` for that.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import msgspec

from shoal.bench.sim.fit import FITS, read_table
from shoal.instance.step_time import HingeStepTime, LinearStepTime, StepTime, WithOverhead
from shoal.proto.errors import InvalidArgument


class Coefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    linear: tuple[float, float, float, float, float]
    mape_pct: tuple[float, ...]
    hinge: tuple[float, float, float, float, float, int] | None = None


def catalogue() -> dict[str, Coefficients]:
    return msgspec.json.decode(
        files(__package__).joinpath("step_times.json").read_bytes(), type=dict[str, Coefficients]
    )


def step_time(name: str, *, form: str = "hinge", overhead_ms: float = 0.0) -> StepTime:
    """`name` is of the catalogue, or the path of a table; `form` is linear, hinge or (of a table only) table."""
    kernels = _from_file(Path(name), form) if Path(name).is_file() else _from_catalogue(name, form)
    return WithOverhead(kernels, overhead_ms) if overhead_ms else kernels


def _from_file(path: Path, form: str) -> StepTime:
    return FITS[form](read_table(path)).step_time


def _from_catalogue(name: str, form: str) -> StepTime:
    known = catalogue()
    if name not in known:
        raise InvalidArgument("step_time", limit=f"a file or one of {', '.join(known)}", given=name)
    entry = known[name]
    return HingeStepTime(*entry.hinge) if form == "hinge" and entry.hinge else LinearStepTime(*entry.linear)


__all__ = ["Coefficients", "catalogue", "step_time"]

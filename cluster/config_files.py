"""The configuration as Kubernetes hands it to a pod: a file, and a folder with one file per secret key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from shoal.proto.config import NODE, ClusterConfig, load_config
from shoal.proto.errors import StartFailed

KEYS = "keys.yaml"


class ConfigFiles(BaseModel):
    """config: what `shoal up --config` takes. secrets: files named after keys of it: `secret`, `registry` as text,
    `keys.yaml` as YAML. Files of other names are somebody else's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path
    secrets: Path | None = None


def read_config(files: ConfigFiles) -> ClusterConfig:
    """Raises StartFailed with one line per wrong key."""
    found = sorted(files.secrets.iterdir()) if files.secrets else []
    given = {path.stem: _value(path) for path in found if _is_key(path)}
    if files.secrets and given.get("keys"):  # Kubernetes changes the file in place; empty: none is needed
        given["keys_file"] = files.secrets / KEYS
    config = load_config(files.config, given)
    if config.host != NODE:
        raise StartFailed(f"host: must be {NODE!r} where Ray spans machines, given {config.host!r}")
    return config


def _is_key(path: Path) -> bool:
    return path.is_file() and path.stem in ClusterConfig.model_fields


def _value(path: Path) -> Any:
    text = path.read_text().strip()
    return yaml.safe_load(text) if path.suffix == ".yaml" else text


__all__ = ["ConfigFiles", "read_config"]

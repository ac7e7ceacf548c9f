"""Writes the `cluster` part of the chart's values.schema.json from the configuration tree; `make deploy` runs it.

The rest of the schema is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.proto.config import ClusterConfig

SCHEMA = Path(__file__).parent / "helm/shoal/values.schema.json"
# Addresses, ports and secrets: in the cluster they are the chart's.
OWNED = {"host", "http_port", "grpc_port", "metrics_port", "admin_port", "frontend", "spares", "registry"}
OWNED |= {"keys", "keys_file", "admin_keys", "secret"}


def with_cluster(schema: dict[str, Any]) -> dict[str, Any]:
    tree = ClusterConfig.model_json_schema()
    properties = {name: one for name, one in tree["properties"].items() if name not in OWNED}
    cluster = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "$defs": tree["$defs"], "properties": {**schema["properties"], "cluster": cluster}}


def text_of(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text_of(with_cluster(json.loads(SCHEMA.read_text()))))

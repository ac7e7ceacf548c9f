"""Checks Kubernetes objects against schemas: Kubernetes' own from `kubernetes-validate`, other kinds' from the
CustomResourceDefinitions in ../shared/schemas, read by path.
"""

import functools
import gzip
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.render import ROOT

KUBERNETES = "1.33"
CRDS = ROOT.parent / "shared" / "schemas"
FILES = {
    "RayService": "ray.io_rayservices",
    "PodMonitor": "monitoring.coreos.com_podmonitors",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules",
}
UNCHECKED = {"HTTPRoute"}  # no schema of the Gateway API is at hand


def closed(schema: Any) -> Any:
    """Kubernetes drops unknown fields silently; here they are errors."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and isinstance(schema["properties"], dict) and not free:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if isinstance(schema.get("pattern"), str):
        made["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")  # as Python wants it
    return made


@functools.cache
def crd(kind: str) -> dict[str, jsonschema.Draft7Validator]:
    """API version -> what judges it."""
    path = CRDS / f"{FILES[kind]}.yaml.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not there: no schema of {kind}")
    definition = yaml.load(gzip.decompress(path.read_bytes()), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    spec, group = definition["spec"], definition["spec"]["group"]
    schemas = {f"{group}/{one['name']}": closed(one["schema"]["openAPIV3Schema"]) for one in spec["versions"]}
    for schema in schemas.values():
        schema["properties"]["metadata"] = {"type": "object"}
    return {version: jsonschema.Draft7Validator(schema) for version, schema in schemas.items()}


def validate(thing: dict[str, Any]) -> None:
    """Raises where the API server would refuse it or would drop a field of it."""
    kind = thing["kind"]
    if kind in FILES:
        crd(kind)[thing["apiVersion"]].validate(thing)
    elif kind not in UNCHECKED:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)


__all__ = ["FILES", "UNCHECKED", "validate"]

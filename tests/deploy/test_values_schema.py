"""The schema of the chart's values and the configuration of `shoal up` are one."""

import importlib.util
import json
from types import ModuleType

from tests.deploy.render import ROOT


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("values_schema", ROOT / "deploy" / "values_schema.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_is_what_make_deploy_writes() -> None:
    module = script()
    written = module.SCHEMA.read_text()
    assert module.text_of(module.with_cluster(json.loads(written))) == written, "run `make deploy`"

"""What the connector to the pool relies on in the installed vLLM, name by name; see test_vllm_seam.py for the rest."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import pytest

from shoal.instance.vllm_flags import set_vllm_environment

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def seam() -> Any:
    set_vllm_environment()
    return importlib.import_module("shoal.instance.vllm_seam")


@pytest.fixture(scope="module")
def connector(seam: Any) -> Any:
    return importlib.import_module("shoal.instance.kv_connector").PoolConnector


def names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_what_a_connector_must_have(seam: Any) -> None:
    assert seam.KVConnectorBase_V1.__abstractmethods__ == {
        *("start_load_kv", "wait_for_layer_load", "save_kv_layer", "wait_for_save"),
        *("get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta"),
    }
    assert seam.SupportsHMA.__abstractmethods__ == {"request_finished_all_groups"}
    assert seam.KVConnectorWorkerMetadata.__abstractmethods__ == {"aggregate"}
    assert names(seam.KVConnectorWorkerMetadata.aggregate) == ["self", "other"]


def test_ours_answers_every_call_with_the_parameters_that_vllm_gives(seam: Any, connector: Any) -> None:
    assert not inspect.isabstract(connector)
    bases = (seam.KVConnectorBase_V1, seam.SupportsHMA)
    ours = {name: one for name, one in vars(connector).items() if inspect.isfunction(one)}
    called = {name for name in ours if any(hasattr(base, name) for base in bases)} - {"__init__"}
    assert ours.keys() - called == {"__init__", "attach_worker", "attach_scheduler", "_time_step", "_seal"}
    for name in called:
        base = next(base for base in bases if hasattr(base, name))
        assert names(ours[name]) == names(getattr(base, name)), name


def test_it_is_made_by_keywords(connector: Any) -> None:
    assert names(connector.__init__) == ["self", "vllm_config", "role", "kv_cache_config"]


def test_it_delivers_for_nobody_so_that_preemption_throws_nothing_away(seam: Any, connector: Any) -> None:
    assert isinstance(seam.KVConnectorBase_V1.requires_kv_delivery, property)
    assert connector.requires_kv_delivery.fget(None) is False
    assert seam.KVConnectorRole.SCHEDULER is not seam.KVConnectorRole.WORKER


def test_its_configuration_asks_for_recomputation_of_what_fails_to_load(seam: Any) -> None:
    config = importlib.import_module("shoal.instance.kv_connector").transfer_config()
    assert (config.kv_load_failure_policy, config.kv_role) == ("recompute", "kv_both")
    assert type(config).kv_load_failure_policy == "fail"  # vLLM's own choice
    assert config.kv_connector_module_path == "shoal.instance.kv_connector"


def test_reports_of_workers_come_where_ours_looks(seam: Any) -> None:
    output = importlib.import_module("vllm.v1.outputs").KVConnectorOutput
    assert "kv_connector_worker_meta" in {field.name for field in dataclasses.fields(output)}
    source = inspect.getsource(seam.KVConnectorBase_V1.bind_kv_cache_manager)
    assert "self._kv_cache_manager = kv_cache_manager" in source


def test_a_key_of_the_cache_is_a_hash_and_four_bytes(seam: Any) -> None:
    utils = importlib.import_module("vllm.v1.core.kv_cache_utils")
    assert seam.get_block_hash(utils.make_block_hash_with_group_id(b"h" * 32, 3)) == b"h" * 32
    with pytest.raises(AssertionError):
        seam.get_kv_transfer_group()  # none in this process

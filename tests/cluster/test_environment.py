"""What every process of a cluster inherits."""

from __future__ import annotations

from shoal.cluster.environment import cluster_environment
from shoal.proto.config import parse_config


def environment(base: dict[str, str] | None = None, cores: int = 8, **config: object) -> dict[str, str]:
    return cluster_environment(parse_config(dict(config)), run_id="r1", ray_token="t", base=base or {}, cores=cores)


def test_priorities_marks_and_the_token_of_ray_are_set():
    made = environment()
    assert made["RAY_worker_niceness"] == "0" and made["SHOAL_RUN_ID"] == "r1"
    assert (made["RAY_AUTH_MODE"], made["RAY_AUTH_TOKEN"]) == ("token", "t")


def test_what_would_change_hashes_or_open_doors_is_not_inherited():
    base = {"PYTHONHASHSEED": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "A": "b"}
    made = environment(base)
    assert made["A"] == "b" and not {
        "PYTHONHASHSEED",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
    } & set(made)


def test_engine_threads_share_the_cores_unless_pinned_or_told():
    assert environment(instances=2)["OMP_NUM_THREADS"] == "4"
    assert environment(instances=16)["OMP_NUM_THREADS"] == "1"
    assert environment(instances=2, engine={"pin_cores": True})["OMP_NUM_THREADS"] == "1"
    assert environment({"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_a_local_model_needs_no_network_and_a_named_one_may_use_it():
    assert environment(model="tiny")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(model="some/model-id")

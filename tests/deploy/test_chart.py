"""The chart renders, every object is one that the API server would take, and the promises about security hold."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shoal.cluster.config_files import ConfigFiles, read_config
from shoal.cluster.environment import cluster_environment
from shoal.proto.config import ClusterConfig
from tests.deploy.render import CHART, EXAMPLES, one_of, pod_templates, render
from tests.deploy.schemas import validate

EVERYTHING = {
    "cluster": {"instances": 5, "frontends": 3, "engine": {"tensor_parallel_size": 2}},
    "servingEngineSpec": {
        "instancesPerPod": 2,
        "requestGPU": 4,
        "digest": "sha256:" + "a" * 64,
        "labels": {"team": "x"},
        "nodeSelector": {"gpu": "h100"},
        "imagePullSecrets": [{"name": "pull"}],
        "affinity": {"nodeAffinity": {}},
    },
    "routerSpec": {
        "serviceAnnotations": {"a": "b"},
        "ingress": {"enabled": True, "hosts": [{"host": "a.example", "paths": [{"path": "/x", "pathType": "Exact"}]}]},
        "route": {"main": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.example"]}},
    },
    "tls": {"secretName": "certs", "edge": True},
    "redis": {"enabled": True, "storage": {"storageClass": "fast"}},
    "networkPolicy": {"internetEgress": True, "extraEgress": [{"to": [{"podSelector": {}}]}]},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "grafanaDashboards": {"enabled": True},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {}}
    ],
}
VALUE_SETS: dict[str, list[Path | dict[str, Any]]] = {
    "defaults": [],
    "everything": [EVERYTHING],
    "bare": [{"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}],
    "scaling": [{"cluster": {"scaling": {"enabled": True, "min_instances": 2, "max_instances": 6}}}],
    **{path.stem: [path] for path in EXAMPLES},
}


@pytest.fixture(params=VALUE_SETS, scope="module")
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return render(tmp_path_factory.mktemp("values"), *VALUE_SETS[request.param])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return render(tmp_path_factory.mktemp("values"), EVERYTHING)


def test_every_object_is_one_that_the_api_server_takes(objects: list[dict[str, Any]]) -> None:
    for one in objects:
        validate(one)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))


def test_a_wrong_object_is_noticed(everything: list[dict[str, Any]]) -> None:
    service = one_of(everything, "RayService")
    with pytest.raises(jsonschema.ValidationError):
        validate({**service, "spec": {**service["spec"], "serveConfig": ""}})
    with pytest.raises(Exception, match="replicas"):
        redis = one_of(everything, "StatefulSet", "rel-redis")
        validate({**redis, "spec": {**redis["spec"], "replicas": "three"}})


def test_every_pod_is_locked_down(objects: list[dict[str, Any]]) -> None:
    for component, template in pod_templates(objects).items():
        spec = template["spec"]
        scales = component == "head" and "enableInTreeAutoscaling" in json.dumps(objects)
        assert spec["automountServiceAccountToken"] is scales  # Ray's autoscaler asks for pods
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] >= 10000
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, component
            assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged")
            resources = container["resources"]
            assert resources["limits"]["memory"] == resources["requests"]["memory"]
            assert not any("hostPort" in port for port in container["ports"])


def test_probes_ask_the_pod_itself_and_nobody_else(objects: list[dict[str, Any]]) -> None:
    for template in pod_templates(objects).values():
        [container] = template["spec"]["containers"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[name]
            asked = probe.get("httpGet") or probe["tcpSocket"]
            assert "host" not in asked
            assert asked.get("path") in (None, "/api/local_raylet_healthz", "/-/healthz")


def test_shared_memory_is_a_sized_one_of_the_pod(objects: list[dict[str, Any]]) -> None:
    for component in ("head", "frontend", "engine"):
        spec = pod_templates(objects)[component]["spec"]
        [mount] = [one for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == "/dev/shm"]
        [volume] = [one for one in spec["volumes"] if one["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory" and volume["emptyDir"]["sizeLimit"]


def test_the_network_is_closed_but_for_what_is_listed(everything: list[dict[str, Any]]) -> None:
    denied = one_of(everything, "NetworkPolicy", "rel-deny")["spec"]
    assert denied["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in denied and "egress" not in denied
    for template in pod_templates(everything).values():
        assert denied["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    policies = [one["spec"] for one in everything if one["kind"] == "NetworkPolicy"]
    rules = itertools.chain.from_iterable(one.get("ingress", []) for one in policies)
    open_to_all = [rule for rule in rules if not rule.get("from")]
    assert not open_to_all
    outward = [to for one in policies for rule in one.get("egress", []) for to in rule["to"] if "ipBlock" in to]
    assert all("169.254.0.0/16" in to["ipBlock"]["except"] for to in outward)  # no cloud metadata


def test_no_secret_stands_outside_the_secret(everything: list[dict[str, Any]], tmp_path: Path) -> None:
    keys = {"keys": {"canary-2": "ada"}, "adminKeys": {"canary-4": "eve"}}
    values = {"secrets": {"secret": "canary-1", **keys, "redisPassword": "canary-3"}}
    objects = render(tmp_path, EVERYTHING, values)
    assert "canary" in json.dumps(one_of(objects, "Secret"))
    assert "canary" not in json.dumps([one for one in objects if one["kind"] != "Secret"])


def test_instances_get_as_many_pods_and_slots_as_they_need(everything: list[dict[str, Any]]) -> None:
    groups = one_of(everything, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    frontends, engines = groups
    assert frontends["replicas"] == 3 and engines["replicas"] == 3  # 5 instances, 2 per pod
    assert engines["rayStartParams"]["resources"] == """'{"shoal_instance": 2}'"""
    container = engines["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert [port["name"] for port in container["ports"]] == ["metrics-0", "metrics-1"]
    assert {"name": "OMP_NUM_THREADS", "value": "2"} in container["env"]  # 4 CPUs, 2 instances
    serve = yaml.safe_load(one_of(everything, "RayService")["spec"]["serveConfigV2"])
    assert serve["applications"][0]["args"]["gpus"] == 2.0
    budget = one_of(everything, "PodDisruptionBudget", "rel-engine")
    assert budget["spec"]["minAvailable"] == 2


def test_labels_of_ray_pods_leave_kuberays_own_alone_and_do_not_change_with_the_chart(
    objects: list[dict[str, Any]],
) -> None:
    for template in pod_templates(objects).values():
        labels = template["metadata"]["labels"].keys()
        assert not labels & {"app.kubernetes.io/name", "helm.sh/chart", "app.kubernetes.io/version"}
        assert not [name for name in labels if name.startswith("ray.io/")]


def test_the_controllers_scaling_is_the_pods(tmp_path: Path) -> None:
    values = {"cluster": {"instances": 4, "scaling": {"enabled": True, "min_instances": 2, "max_instances": 7}}}
    objects = render(tmp_path, values, {"servingEngineSpec": {"instancesPerPod": 2}})
    cluster = one_of(objects, "RayService")["spec"]["rayClusterConfig"]
    frontends, engines = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert (engines["minReplicas"], engines["replicas"], engines["maxReplicas"]) == (1, 2, 4)
    assert frontends["minReplicas"] == frontends["maxReplicas"] == 1
    assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_pod_has_time_to_leave(objects: list[dict[str, Any]]) -> None:
    for component in ("frontend", "engine"):
        spec = pod_templates(objects)[component]["spec"]
        command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:4] == ["python", "-m", "shoal.cluster.pre_stop", component]
        assert spec["terminationGracePeriodSeconds"] > int(command[4]) + 10


def test_pods_inherit_what_processes_inherit_on_one_machine(objects: list[dict[str, Any]]) -> None:
    wanted = cluster_environment(
        ClusterConfig(frontend="haproxy", model="a/b"), run_id="r", ray_token="t", base={}, cores=1
    )
    # KubeRay sets the token, each pod its threads, and the end of a stream may take long here.
    theirs = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "SHOAL_RUN_ID"}
    for name in theirs | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"}:
        del wanted[name]
    for component in ("head", "frontend", "engine"):
        [container] = pod_templates(objects)[component]["spec"]["containers"]
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert wanted.items() <= given.items()
        assert "SHOAL_RUN_ID" in given


def test_the_cluster_reads_the_configuration_that_the_chart_writes(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "shoal.yaml").write_text(one_of(objects, "ConfigMap")["data"]["shoal.yaml"])
    config = read_config(ConfigFiles(config=tmp_path / "shoal.yaml"))
    assert (config.host, config.frontend, config.spares, config.metrics_port) == ("node", "haproxy", 0, 9400)


def test_certificates_come_from_their_secret_and_only_where_one_is_named(
    everything: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "shoal.yaml").write_text(one_of(everything, "ConfigMap")["data"]["shoal.yaml"])
    tls = read_config(ConfigFiles(config=tmp_path / "shoal.yaml")).tls
    assert {tls.inner_cert, tls.inner_ca, tls.edge_key} == {
        Path(f"/etc/shoal-tls/{name}.pem") for name in ("inner", "inner-ca", "edge-key")
    }
    for component in ("head", "frontend", "engine"):
        assert "tls" in [one["name"] for one in pod_templates(everything)[component]["spec"]["volumes"]]
    plain = pod_templates(render(tmp_path))["engine"]["spec"]
    assert "tls" not in [one["name"] for one in plain["volumes"]]


def test_another_configuration_is_another_cluster(tmp_path: Path) -> None:
    """KubeRay starts a new one only where the pods change."""
    one = pod_templates(render(tmp_path, {"cluster": {"policy": "least_work"}}))["engine"]["metadata"]["annotations"]
    two = pod_templates(render(tmp_path, {"cluster": {"policy": "round_robin"}}))["engine"]["metadata"]["annotations"]
    assert one != two


def test_examples_and_defaults_obey_the_schema_of_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path in (CHART / "values.yaml", *EXAMPLES):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    for wrong in ({"cluster": {"instances": 0}}, {"cluster": {"keys": {}}}, {"servingEngineSpec": {"replicas": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_images_are_pinned_by_digest_where_one_is_given(everything: list[dict[str, Any]]) -> None:
    image = pod_templates(everything)["engine"]["spec"]["containers"][0]["image"]
    assert re.fullmatch(r"shoal@sha256:a{64}", image)

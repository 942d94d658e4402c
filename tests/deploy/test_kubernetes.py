"""Kubernetes' overlays and components as kustomize renders them: against schemas, and against what a server exports."""

import json
import re
import shutil
import subprocess
import tomllib
from ast import literal_eval
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bundle.manifest import FORMAT
from server.observe.metrics import Metrics
from server.service.rpcs import METHODS, SERVICES
from server.settings import ServerSettings
from tests.deploy.manifests import BASE, KUBERNETES, ROOT, SPARE_SECONDS, load

KUBECTL = shutil.which("kubectl")
COMPONENTS = ("hpa", "keda", "gateway")
VARIANTS = ("overlays/cpu", "overlays/gpu", "kserve", *COMPONENTS)
# By API group: the npm package of its schemas, or Python's (`make schemas`).
NPM = {"gateway.networking.k8s.io": "gateway-api", "keda.sh": "keda"}
KSERVE = "serving.kserve.io"
SCHEMAS = ROOT / ".tools" / "schemas"
# Fields of a HorizontalPodAutoscaler within a ScaledObject, and of a trigger's own table.
OF_KUBERNETES = {"scaleDown", "stabilizationWindowSeconds", "policies", "periodSeconds", "value"}
OF_KUBERNETES |= {"serverAddress", "query", "threshold"}
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl, which has kustomize, is not installed")


@cache
def render(variant: str) -> tuple[dict[str, Any], ...]:
    """The objects of an overlay; of a component, with the overlay cpu."""
    if variant not in COMPONENTS:
        return _kustomize(KUBERNETES / variant)
    folder = KUBERNETES / f"try-{variant}"
    folder.mkdir()
    try:
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": ["../overlays/cpu"],
                    "components": [f"../components/{variant}"],
                }
            )
        )
        return _kustomize(folder)
    finally:
        shutil.rmtree(folder)


def _kustomize(folder: Path) -> tuple[dict[str, Any], ...]:
    assert KUBECTL
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if "unknown field" in done.stderr:
        pytest.skip(f"kubectl's kustomize is too old: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def find(variant: str, kind: str, name: str = "") -> dict[str, Any]:
    (found,) = (one for one in render(variant) if one["kind"] == kind and name in ("", one["metadata"]["name"]))
    return found


def group(one: dict[str, Any]) -> str:
    return str(one["apiVersion"].rpartition("/")[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_kubernetes_knows_is_valid(variant: str) -> None:
    for one in render(variant):
        if group(one) not in NPM and group(one) != KSERVE:
            for version in ("1.30.0", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("variant", ["keda", "gateway"])
def test_what_others_define_is_valid(variant: str) -> None:
    """By the validators of their npm packages; those let unknown fields pass, so their names are looked up, too."""
    node = shutil.which("node")
    if not node or not (SCHEMAS / "node_modules").exists():
        pytest.skip("node, or what `make schemas` fetches, is not there")
    objects = [one for one in render(variant) if group(one) in NPM]
    assert objects
    for one in objects:
        package, version = f"@kubernetes-models/{NPM[group(one)]}", one["apiVersion"]
        script = (
            f'import {{{one["kind"]} as Kind}} from "{package}/{version}/{one["kind"]}";'
            f"new Kind({json.dumps(one)}).validate();"
        )
        command = [node, "--input-type=module", "-e", script]
        done = subprocess.run(command, cwd=SCHEMAS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        types = "".join(path.read_text() for path in (SCHEMAS / "node_modules" / package).rglob("*.d.ts"))
        for key in keys_of(one["spec"]) - OF_KUBERNETES:
            assert re.search(rf'^\s*"?{key}"?\??:', types, re.MULTILINE), f"{one['kind']} has no {key}"


@pytest.mark.parametrize("kind", ["ServingRuntime", "InferenceService"])
def test_what_kserve_defines_is_valid(kind: str) -> None:
    """By the classes of its Python package, which are read and not imported: they need a cluster's client."""
    models = SCHEMAS / "kserve" / "models"
    if not models.exists():
        pytest.skip("what `make schemas` fetches is not there")
    one = find("kserve", kind)
    version = one["apiVersion"].rpartition("/")[2].capitalize()
    check_by_class(models, f"{version}{kind}", one)


def check_by_class(models: Path, name: str, given: Any) -> None:
    """Check names and simple types of a value by a class of KServe; Kubernetes' own are not followed."""
    path = models / (re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() + ".py")
    if not path.exists():
        assert re.match(r"V1[A-Z]", name), f"{name} is not there"
        return
    text = path.read_text()
    types, names = (literal_eval(re.findall(rf"{table} = (\{{.*?\}})", text, re.DOTALL)[0]) for table in TABLES)
    by_key = {key: types[attribute] for attribute, key in names.items()}
    for key, value in given.items():
        assert key in by_key, f"{name} has no {key}, only {sorted(by_key)}"
        inner = re.sub(r"^list\[(.*)\]$", r"\1", by_key[key])
        simple = {"str": str, "int": int, "bool": bool}
        for item in value if by_key[key].startswith("list[") else [value]:
            if inner in simple:
                assert isinstance(item, simple[inner]), f"{name}.{key} is {item!r}, {inner} is expected"
            elif not inner.startswith("dict("):
                check_by_class(models, inner, item)


TABLES = ("openapi_types", "attribute_map")


def keys_of(value: Any) -> set[str]:
    """The names of all fields in a value, but for free tables."""
    if isinstance(value, list):
        return {key for item in value for key in keys_of(item)}
    if not isinstance(value, dict):
        return set()
    return {key for name, item in value.items() for key in ({name} if name == "metadata" else {name, *keys_of(item)})}


# Against what the server exports.


def exported_metrics() -> set[str]:
    """The names of all metrics, as Prometheus has them."""
    names = set()
    for family in Metrics(lambda: 0, METHODS, 1).registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names.add(family.name + suffix)
    return names


def test_scaling_goes_by_metrics_that_there_are() -> None:
    hpa, scaled = find("hpa", "HorizontalPodAutoscaler")["spec"], find("keda", "ScaledObject")["spec"]
    by_hpa = {one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"] for one in hpa["metrics"]}
    queries = {one["metadata"]["query"]: one["metadata"]["threshold"] for one in scaled["triggers"]}
    by_keda = {re.findall(r"charstream_\w+", query)[0]: threshold for query, threshold in queries.items()}
    assert by_hpa == {"charstream_rows_used_ratio": "600m", "charstream_waiting": "16"}
    assert by_keda == {"charstream_rows_used_ratio": "0.6", "charstream_waiting": "16"}
    assert by_hpa.keys() <= exported_metrics()
    assert all('job="charstream"' in query for query in queries), "as deploy/observability and the alerts name it"
    for variant, least in (("hpa", hpa["minReplicas"]), ("keda", scaled["minReplicaCount"])):
        assert "replicas" not in find(variant, "Deployment")["spec"], "applying again would set it back"
        assert least == load(BASE / "deployment.yaml")["spec"]["replicas"]


def test_the_endpoint_picker_is_told_of_metrics_that_there_are() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    told = dict(re.findall(r"`([a-z-]+-metric): (\w+)`", manual))
    assert len(told) == 3
    assert set(told.values()) <= exported_metrics()


def test_routes_lead_to_services_and_ports_that_there_are() -> None:
    route, policy = find("gateway", "GRPCRoute")["spec"], find("gateway", "BackendTLSPolicy")["spec"]
    (rule,) = route["rules"]
    health = {"grpc.health.v1.Health"}
    assert {match["method"]["service"] for match in rule["matches"]} == SERVICES.keys() | health
    (backend,) = rule["backendRefs"]
    service = find("gateway", "Service", backend["name"])
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert policy["targetRefs"][0]["name"] == backend["name"]
    probe = find("gateway", "Deployment")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert policy["validation"]["hostname"] == probe["exec"]["command"][-1], "the name in the certificate"


def test_replicas_are_found_while_they_drain() -> None:
    replicas = find("overlays/cpu", "Service", "charstream-replicas")["spec"]
    assert replicas["publishNotReadyAddresses"]
    assert "publishNotReadyAddresses" not in find("overlays/cpu", "Service", "charstream")["spec"]


def test_the_gpu_s_configuration_differs_only_where_a_gpu_does() -> None:
    (maps,) = (one for one in render("overlays/gpu") if one["kind"] == "ConfigMap")
    gpu, cpu = tomllib.loads(maps["data"]["server.toml"]), tomllib.loads((BASE / "server.toml").read_text())
    ServerSettings.model_validate(gpu)
    assert {name for name in gpu.keys() | cpu.keys() if gpu.get(name) != cpu.get(name)} == {
        "provider",
        "engines",
        "threads",
    }
    (container,) = find("overlays/gpu", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "charstream:gpu"
    config = find("overlays/gpu", "Deployment")["spec"]["template"]["spec"]["volumes"][1]["configMap"]["name"]
    assert config == maps["metadata"]["name"], "another configuration rolls out"


def test_kserve_starts_the_server_as_it_is_asked_and_gives_it_the_time_to_drain() -> None:
    (container,) = find("kserve", "ServingRuntime")["spec"]["containers"]
    predictor = find("kserve", "InferenceService")["spec"]["predictor"]
    flags = {word for word in container["args"] if word.startswith("--")}
    assert flags <= {"--" + name.replace("_", "-") for name in ServerSettings.model_fields}
    given = dict(zip(container["args"], container["args"][1:], strict=False))
    assert int(given["--port"]) == container["ports"][0]["containerPort"] == container["readinessProbe"]["grpc"]["port"]
    assert int(given["--metrics-port"]) == container["livenessProbe"]["httpGet"]["port"]
    drains = float(given["--drain-delay"]) + float(given["--grace"]) + SPARE_SECONDS
    assert predictor["terminationGracePeriodSeconds"] >= drains
    formats = find("kserve", "ServingRuntime")["spec"]["supportedModelFormats"]
    assert formats[0]["version"] == predictor["model"]["modelFormat"]["version"] == str(FORMAT)

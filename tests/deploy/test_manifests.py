"""The files that operators copy from deploy/: each by its own validator, and all against the server that they start."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest

from charstream.settings import parse
from client.commands.health import HealthSettings
from server.__main__ import OTHER_FILES
from server.settings import ServerSettings
from tests.deploy.manifests import (
    BASE,
    COMPOSE,
    DEPLOY,
    KUBERNETES,
    ROOT,
    UNIT,
    config,
    container,
    drain_seconds,
    files_of,
    load,
    manifests,
    pod,
    services,
    unit,
)

FLAGS = {"--" + name.replace("_", "-") for name in ServerSettings.model_fields}
DEFAULT_FILES = 1024  # what a container's process may open where its runtime does not say otherwise
IMAGE_USER = "10001"

# Each by its own validator.


def test_compose_file_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", sorted(manifests().keys() - {"Kustomization"}))
def test_kubernetes_manifest_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[kind], version, strict=True)


@pytest.mark.parametrize("drop_ins", [(), ("reread.conf",)])
def test_systemd_unit_is_valid(drop_ins: tuple[str, ...], tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if not systemd:
        pytest.skip("systemd-analyze is not installed")
    # It wants the programs that are started to be there.
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/charstream/bin/charstream", sys.executable))
    (tmp_path / f"{UNIT.name}.d").mkdir()
    for name in drop_ins:
        shutil.copy(UNIT.with_name(name), tmp_path / f"{UNIT.name}.d")
    checked = subprocess.run(
        [systemd, "verify", "--man=no", UNIT.name],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # What it does not know it only warns of.
    assert (checked.returncode, checked.stderr) == (0, "")


# All against the server.


@pytest.mark.parametrize("folder", ["systemd", "compose", "kubernetes"])
def test_server_takes_the_example_configuration(folder: str) -> None:
    settings = config(folder)
    if settings.tls_cert is None:
        assert folder == "systemd"
        assert "CHARSTREAM_TLS_CERT" in UNIT.read_text()
    assert settings.metrics_port
    assert settings.identity_streams


def test_variables_and_flags_exist() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and "observability" not in path.parts]
    text = "\n".join(path.read_text() for path in files)
    of_server = {f"CHARSTREAM_{name.upper()}" for name in ServerSettings.model_fields}
    of_clients = {"CHARSTREAM_ADDRESS", "CHARSTREAM_TOKEN"}
    of_health = {f"CHARSTREAM_HEALTH_{name.upper()}" for name in HealthSettings.model_fields}
    assert set(re.findall(r"\bCHARSTREAM_[A-Z_]+[A-Z]\b", text)) <= of_server | of_clients | of_health
    started = [*unit(UNIT)["ExecStart"][0].split(), *container()["args"]]
    assert {word for word in started if word.startswith("--")} <= FLAGS


def test_health_checks_ask_the_server_as_it_listens() -> None:
    probes = [
        ("kubernetes", container()["startupProbe"]["exec"]["command"]),
        ("kubernetes", container()["readinessProbe"]["exec"]["command"]),
        *(("compose", services()[name]["healthcheck"]["test"][1:]) for name in ("server-a", "server-b")),
    ]
    for folder, (python, *module, _, address, ca_flag, ca, name_flag, name) in probes:
        assert (python, module) == ("python3", ["-m", "client.commands.health"])
        asked = parse(HealthSettings, ["--host", address, ca_flag, ca, name_flag, name], command="health")
        assert asked.host == (f"127.0.0.1:{config(folder).port}",)
        assert asked.tls_ca
        assert asked.tls_ca.parent == config(folder).tls_cert.parent  # type: ignore[union-attr]


def test_ports_match() -> None:
    settings, found = config("kubernetes"), manifests()
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    assert f"EXPOSE {settings.port}" in (ROOT / "Dockerfile").read_text()
    (grpc,) = found["Service"]["spec"]["ports"]
    assert (grpc["port"], grpc["targetPort"]) == (settings.port, "grpc")
    allowed = {port["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    replicas = load(BASE / "replicas.yaml")
    assert replicas["spec"].items() >= found["Service"]["spec"].items()
    assert settings.replicas == (f"{replicas['metadata']['name']}:{grpc['port']}",)
    assert {"port": "grpc"} in found["NetworkPolicy"]["spec"]["egress"][0]["ports"]
    assert allowed == set(ports)
    annotations = found["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    assert container()["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    published = [services()[name]["ports"][0].split(":") for name in ("server-a", "server-b")]
    assert {port[2] for port in published} == {str(config("compose").port)}
    assert len({port[1] for port in published}) == 2


def test_prometheus_scrapes_the_servers_of_compose() -> None:
    path = DEPLOY / "observability" / "prometheus.yml"
    if not path.exists():
        pytest.skip("deploy/observability/prometheus.yml is not there")
    (job,) = load(path)["scrape_configs"]
    targets = {target for found in job["static_configs"] for target in found["targets"]}
    assert targets == {f"{name}:{config('compose').metrics_port}" for name in ("server-a", "server-b")}
    mounted = {volume.split(":")[1] for volume in services()["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in load(path)["rule_files"]} <= mounted


def test_what_others_reach_is_the_metrics_port_only_where_a_network_policy_stands_before_it() -> None:
    assert config("systemd").metrics_host == "127.0.0.1"
    assert not any(f":{config('compose').metrics_port}" in port for s in services().values() for port in s["ports"])


def test_a_server_that_drains_is_given_the_time() -> None:
    assert pod()["terminationGracePeriodSeconds"] >= drain_seconds("kubernetes")
    assert float(unit(UNIT)["TimeoutStopSec"][0]) >= drain_seconds("systemd")
    for name in ("server-a", "server-b"):
        assert float(services()[name]["stop_grace_period"].removesuffix("s")) >= drain_seconds("compose")


def test_an_engine_that_the_kernel_kills_does_not_end_the_service() -> None:
    assert unit(UNIT)["OOMPolicy"] == ["continue"]  # systemd stops all of a service by default


def test_there_are_files_for_all_connections() -> None:
    files = {
        "kubernetes": DEFAULT_FILES,
        "systemd": int(unit(UNIT)["LimitNOFILE"][0]),
        "compose": services()["server-a"]["ulimits"]["nofile"],
    }
    for folder, allowed in files.items():
        assert config(folder).max_connections + OTHER_FILES <= allowed, folder


def test_kubernetes_objects_name_each_other() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    listed = set(found["Kustomization"]["resources"])
    assert listed == {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    for overlay in ("overlays/cpu", "overlays/gpu", "kserve"):
        (image,) = load(KUBERNETES / overlay / "kustomization.yaml")["images"]
        assert image["name"] == container()["image"]
        assert f" AS {image['newTag']}\n" in (ROOT / "Dockerfile").read_text()


def test_kubernetes_volumes_hold_what_the_configuration_names() -> None:
    generator = manifests()["Kustomization"]["configMapGenerator"][0]
    commands = (BASE / "kustomization.yaml").read_text().replace("\\\n#", "")
    secrets = dict(re.findall(r"create secret generic (\S+)(.*)", commands))
    sources = {volume["name"]: volume for volume in pod()["volumes"]}
    held = {}
    for mount in container()["volumeMounts"]:
        assert "subPath" not in mount, "it would never change"
        source = sources[mount["name"]]
        if "configMap" in source:
            assert source["configMap"]["name"] == generator["name"]
            held[mount["mountPath"]] = set(generator["files"])
        elif "secret" in source:
            held[mount["mountPath"]] = set(re.findall(r"--from-file=(\S+)", secrets[source["secret"]["secretName"]]))
        else:
            claim = source["persistentVolumeClaim"]["claimName"]
            assert claim == manifests()["PersistentVolumeClaim"]["metadata"]["name"]
            assert mount["mountPath"] == str(config("kubernetes").models)
    ca = container()["readinessProbe"]["exec"]["command"][6]
    for path in (*files_of("kubernetes"), Path(container()["args"][1]), Path(ca)):
        assert path.name in held[str(path.parent)]


def test_compose_mounts_hold_what_the_configuration_names() -> None:
    defined = load(COMPOSE)["secrets"]
    for name, service in services().items():
        assert set(service.get("secrets", ())) <= defined.keys()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            made = source == "../../bundles" or "/" not in source or "observability" in source
            assert made or (COMPOSE.parent / source).exists(), f"{name}: {source}"
        if name.startswith("server"):
            assert service["build"]["target"] == "cpu"
            assert {f"/run/secrets/{secret}" for secret in service["secrets"]} >= set(map(str, files_of("compose")))
    assert "/secrets/" in (COMPOSE.parent / ".gitignore").read_text()
    assert "deploy" in (ROOT / ".dockerignore").read_text().split(), "secrets would go into the build"


def test_unit_gives_the_files_that_it_loads() -> None:
    loaded = {credential.split(":")[0] for credential in unit(UNIT)["LoadCredential"]}
    given = dict(variable.split("=", 1) for variable in unit(UNIT)["Environment"])
    files = {name: path for name, path in given.items() if "%d/" in path}
    assert {path.removeprefix("%d/") for path in files.values()} == loaded
    assert set(files) == {f"CHARSTREAM_{name}" for name in ("TLS_CERT", "TLS_KEY", "TOKENS", "RESUME_KEYS")}
    in_place = dict(variable.split("=", 1) for variable in unit(UNIT.with_name("reread.conf"))["Environment"])
    assert in_place.keys() == files.keys()
    assert unit(UNIT.with_name("reread.conf"))["LoadCredential"] == [""]


def test_nothing_runs_as_root_or_writes_where_it_runs() -> None:
    secured, of_pod = container()["securityContext"], pod()["securityContext"]
    assert (of_pod["runAsNonRoot"], str(of_pod["runAsUser"])) == (True, IMAGE_USER)
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert secured["readOnlyRootFilesystem"]
    assert not secured["allowPrivilegeEscalation"]
    assert secured["capabilities"] == {"drop": ["ALL"]}
    for name, service in services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert services()["server-a"]["user"].split(":")[0] == IMAGE_USER
    assert f"USER {IMAGE_USER}" in (ROOT / "Dockerfile").read_text()


def test_kubernetes_gives_no_variables_that_the_server_would_take_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARSTREAM_PORT", "tcp://10.0.0.1:50051")  # as of a Service "charstream" with an address
    with pytest.raises(SystemExit):
        parse(ServerSettings, [], command="charstream serve", environment="CHARSTREAM_")
    assert pod()["enableServiceLinks"] is False


def test_onnxruntime_reports_to_nobody() -> None:
    assert {"name": "ORT_DISABLE_TELEMETRY", "value": "1"} in container()["env"]
    assert services()["server-a"]["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ORT_DISABLE_TELEMETRY=1" in unit(UNIT)["Environment"]

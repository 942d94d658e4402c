"""Readers of the files of deploy/."""

import tomllib
from pathlib import Path
from typing import Any

import yaml

from server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "charstream.service"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"

SPARE_SECONDS = 5  # after drain_delay and grace, for what remains to be cut off


def config(folder: str) -> ServerSettings:
    """The example server.toml of a folder, of Kubernetes that of the base.

    Raises ValidationError for an unknown name or a wrong value.
    """
    return ServerSettings.model_validate(tomllib.loads((_folder(folder) / "server.toml").read_text()))


def _folder(name: str) -> Path:
    return BASE if name == "kubernetes" else DEPLOY / name


def drain_seconds(folder: str) -> float:
    return config(folder).drain_delay + config(folder).grace + SPARE_SECONDS


def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects of the base by kind; of the two services that of clients."""
    files = [path for path in sorted(BASE.glob("*.yaml")) if path.name != "replicas.yaml"]
    return {found["kind"]: found for found in map(load, files)}


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def services() -> dict[str, dict[str, Any]]:
    """Compose's services."""
    return dict(load(COMPOSE)["services"])


def unit(*files: Path) -> dict[str, list[str]]:
    """The settings of [Service], each with all that is given for it."""
    found: dict[str, list[str]] = {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def files_of(folder: str) -> list[Path]:
    """The files of certificates, tokens and keys, all of which an example has."""
    settings = config(folder)
    paths = [settings.tls_cert, settings.tls_key, settings.tokens, settings.resume_keys]
    return [path for path in paths if path]

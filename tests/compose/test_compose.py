"""docker-compose.yaml, Dockerfile and .env.example: as far as they can be checked without Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.configuration import conf

from local.environment import PROJECT
from tests.conftest import NOT_TESTED

TEXT = (PROJECT / "docker-compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AIRFLOW = ("init", "api-server", "scheduler", "dag-processor", "triggerer", "worker")
EXAMPLE = (PROJECT / ".env.example").read_text()
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
SECRET_NAME = re.compile(r"PASSWORD$|SECRET|KEY|TOKEN|AUTH$|_CONN$|BROKER_URL|RESULT_BACKEND")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}")


def pins(name: str) -> dict[str, str]:
    """Package to version of a lock file."""
    return dict(re.findall(r"^([\w.-]+)==([^ ]+) ", (PROJECT / name).read_text(), re.MULTILINE))


def test_the_services_of_an_airflow_with_celery() -> None:
    assert set(SERVICES) == {"postgres", "redis", *AIRFLOW}
    assert SERVICES["worker"]["command"] == "celery worker"


def test_no_secret_is_written_down() -> None:
    secrets = [
        (name, value)
        for service in SERVICES.values()
        for name, value in service["environment"].items()
        if SECRET_NAME.search(name)
    ]
    assert len(secrets) > len(AIRFLOW) * 5
    for name, value in secrets:
        assert re.search(r"\$\{\w+:\?", value), name
    logins = re.findall(r"://\w*:(.+?)@", TEXT)
    assert logins
    assert all(login.startswith("${") for login in logins)


def test_every_lasting_service_has_a_health_check_and_comes_back() -> None:
    for name, service in SERVICES.items():
        if name == "init":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"]), name
        assert name in ("postgres", "redis") or set(service["depends_on"]) == {"postgres", "redis", "init"}


def test_images_are_pinned() -> None:
    images = {service["image"] for service in SERVICES.values()}
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    for image in (*images, *bases):
        assert re.search(r":\d+\.\d+\.?\d*", image), image
    assert len(set(bases)) == 1
    version = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {SERVICES[name]["image"] for name in AIRFLOW} == {f"mdw-migration:{version[1]}"}


def test_the_image_has_the_packages_that_the_tests_run_with() -> None:
    tested, image = pins("requirements.lock"), pins("requirements-docker.lock")
    assert tested.items() <= image.items()
    assert {"apache-airflow-providers-celery", "celery", "redis"} <= set(image) - set(tested)


def test_the_image_is_made_of_what_is_there_and_not_ignored() -> None:
    sources = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    ignored, *let_in = [
        line
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith(("#", "**"))
    ]
    assert ignored == "*"
    assert {f"!{source.split('/')[0]}" for source in sources} == set(let_in)
    for source in sources:
        assert (PROJECT / source).exists(), source
    assert "PYTHONPATH=/opt/migration" in DOCKERFILE
    assert re.search(r"^USER airflow", DOCKERFILE, re.MULTILINE)


def test_the_pages_are_reached_from_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:${AIRFLOW_PORT:-8080}:8080"]


def test_all_parts_of_airflow_share_settings_and_staging() -> None:
    shared = COMPOSE["x-airflow"]
    for name in AIRFLOW:
        assert shared["environment"].items() <= SERVICES[name]["environment"].items()
        assert SERVICES[name]["env_file"] == ".env"
        assert set(shared["volumes"]) <= set(SERVICES[name]["volumes"])
    environment = shared["environment"]
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://api-server:8080/execution/"
    staging = environment["MIGRATION_STAGING_URI"]
    mounts = [volume.split(":")[1] for volume in shared["volumes"]]
    assert any(f"file://{mount}/" in staging for mount in mounts)
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert volumes == set(COMPOSE["volumes"])


def test_airflow_knows_its_settings() -> None:
    known = {
        (section, option)
        for section, described in conf.configuration_description.items()
        for option in described["options"]
    }
    for name in COMPOSE["x-airflow"]["environment"]:
        prefix, section, option = [*name.lower().split("__"), "", ""][:3]
        if prefix == "airflow" and not section.startswith("celery"):  # that provider is in the image alone
            assert (section, option) in known, name


def test_every_variable_is_documented_and_every_documented_one_is_read() -> None:
    documented = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", EXAMPLE, re.MULTILINE))
    used = {name for name, _ in VARIABLE.findall(TEXT)}
    assert used <= documented
    _, _, only_here = EXAMPLE.partition("Only for docker-compose.yaml")
    assert set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", only_here, re.MULTILINE)) <= used


class TestCompose:
    """What the program itself says."""

    @pytest.fixture
    def compose(self) -> list[str]:
        """Its command line."""
        for command in (["docker", "compose"], ["docker-compose"]):
            program = shutil.which(command[0])
            if program is None:
                continue
            known = subprocess.run([program, *command[1:], "version"], capture_output=True, check=False)  # noqa: S603
            if known.returncode == 0:
                return [program, *command[1:]]
        pytest.skip(f"{NOT_TESTED}docker compose config, for there is no docker compose")

    def config(self, compose: list[str], folder: Path, variables: str) -> subprocess.CompletedProcess[str]:
        shutil.copy(PROJECT / "docker-compose.yaml", folder)
        (folder / ".env").write_text(variables)
        return subprocess.run(  # noqa: S603
            [*compose, "config", "-q"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_filled_in_it_is_valid(self, compose: list[str], tmp_path: Path) -> None:
        result = self.config(
            compose, tmp_path, re.sub(r"^(AIRFLOW_\w+)=$", r"\1=x", EXAMPLE, flags=re.MULTILINE)
        )
        assert (result.returncode, result.stderr) == (0, "")

    def test_as_copied_it_is_refused(self, compose: list[str], tmp_path: Path) -> None:
        result = self.config(compose, tmp_path, EXAMPLE)
        assert result.returncode != 0
        assert "see .env.example" in result.stderr

"""A real API server of Airflow for the tests of the pages, and a browser to click on them."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from local.environment import State
from local.postgres import HOST
from local.processes import running, spawn
from local.ui import choose_port
from tests.end_to_end.runs import Databases, Outcome
from tests.scheduler.scheduler import await_true

START_SECONDS = 120.0
ROLES = ("viewer", "user", "op", "admin")
"""Of Airflow's simple auth manager; a user of that name has each. Only the viewer may not edit DAGs."""
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--no-first-run")  # fmt: skip


@dataclass
class Site:
    """Airflow's pages over a target into which runs migrated.

    Attributes:
        runs: outcomes by name: what the fixture ran.
    """

    address: str
    databases: Databases
    runs: Mapping[str, Outcome] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Of the real run."""
        run_id = self.runs["real"].run_id
        assert run_id is not None
        return run_id

    def token(self, user: str) -> str:
        """Of a user's session, whose name is also the password."""
        if user not in self._tokens:
            answer = httpx.post(
                f"{self.address}/auth/token", json={"username": user, "password": user}, trust_env=False
            )
            self._tokens[user] = answer.raise_for_status().json()["access_token"]
        return self._tokens[user]

    @contextmanager
    def client(self, user: str | None, **headers: str) -> Iterator[httpx.Client]:
        """Sends the session's cookie, as a browser does; None: nobody is signed in."""
        cookies = {} if user is None else {"_token": self.token(user)}
        with httpx.Client(
            base_url=f"{self.address}/migration",
            cookies=cookies,
            headers=headers,
            trust_env=False,
            timeout=30,
        ) as client:
            yield client


@contextmanager
def serving_pages(state: State, environment: Mapping[str, str], databases: Databases) -> Iterator[Site]:
    """An API server under way, ended with the block; :func:`await_pages` waits until it answers."""
    port = choose_port(0)
    address = f"http://{HOST}:{port}"
    passwords = state.airflow / "passwords.json"
    passwords.write_text(json.dumps({role: role for role in ROLES}))
    settings = {
        **environment,
        **{name: value for name, value in databases.variables().items() if value is not None},
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
    }
    with (
        (state.logs / "api-server.log").open("wb") as log,
        running(spawn([sys.executable, "-m", "airflow", "api-server"], settings, log)),
    ):
        yield Site(address, databases)


def await_pages(site: Site, state: State) -> None:
    """Waits until the pages answer."""

    def answers() -> bool:
        try:
            return httpx.get(f"{site.address}/api/v2/monitor/health", trust_env=False, timeout=5).is_success
        except httpx.HTTPError:
            return False

    await_true(answers, START_SECONDS, lambda: f"no answer; see {state.logs}/api-server.log")

"""One small source, migrated once; every test continues from copies of both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from include.entities import ENTITIES
from local.postgres import ADMIN, EmbeddedPostgres
from plugins.hooks.embeddings import HashProvider
from plugins.hooks.target_schema import deploy_schema, register
from tests.conftest import fresh_database
from tests.end_to_end.conftest import READER, allow_reading
from tests.end_to_end.runs import Databases
from tests.incremental import source
from tests.incremental.runner import FULL, run
from tests.incremental.world import World

MakeWorld = Callable[[], AbstractContextManager[World]]


@dataclass(frozen=True)
class Templates:
    """Databases to copy: the small source, its complete migration, an empty target, one with empty tables."""

    source: str
    migrated: str
    empty: str
    deployed: str


@pytest.fixture(scope="session")
def templates(
    server: EmbeddedPostgres, target_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Templates]:
    """Made once."""
    server.create_login(READER)
    with ExitStack() as stack:
        name = stack.enter_context(fresh_database(server))
        with source.using(server.dsn(name)):
            source.fill()
        allow_reading(server.dsn(name))
        target = stack.enter_context(fresh_database(server, template=target_template, owner="postgres"))
        databases = Databases(
            source=server.dsn(name, role=READER),
            target=server.dsn(target, role="postgres"),
            source_admin=server.dsn(name),
        )
        run(FULL, databases, tmp_path_factory.mktemp("migrated"), dry_run=False).raise_errors()
        deployed = stack.enter_context(fresh_database(server, template=target_template, owner="postgres"))
        with psycopg.connect(server.dsn(deployed, role="postgres"), autocommit=True) as connection:
            deploy_schema(connection, HashProvider().dimensions)
            register(connection, ENTITIES.values())
        yield Templates(name, target, target_template, deployed)


@pytest.fixture(scope="session")
def make_world(
    server: EmbeddedPostgres, templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> MakeWorld:
    """Copies the source and its complete migration, and points Django at the source, while the context lasts."""

    @contextmanager
    def make() -> Iterator[World]:
        with ExitStack() as stack:

            def copy(template: str, owner: str = ADMIN) -> str:
                return stack.enter_context(fresh_database(server, template=template, owner=owner))

            world = World(
                source_name=copy(templates.source),
                target_name=copy(templates.migrated, "postgres"),
                empty=lambda: copy(templates.empty, "postgres"),
                deployed=lambda: copy(templates.deployed, "postgres"),
                copy=lambda name: copy(name, "postgres"),
                server=server,
                folder=tmp_path_factory.mktemp("world"),
            )
            world.take_source_for_the_original()
            stack.enter_context(source.using(world.databases.source_admin))
            yield world

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> Iterator[World]:
    """One of a test's own."""
    with make_world() as made:
        yield made

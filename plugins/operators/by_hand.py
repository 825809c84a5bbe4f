"""What people do to the target by hand has in common: a form of its own, one call that takes effect or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from airflow.sdk import BaseOperator, Param

from include.core.settings import TECHNICAL
from plugins.form import checked
from plugins.operators.step import given, guide, registered

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

REQUEST_RETRIES = 3
"""How often a single request of the API is repeated after a transient error; the call takes effect once."""


def load_via() -> Param:
    """The way into the target."""
    return Param(
        "auto",
        type="string",
        enum=["auto", "postgres", "rest"],
        title="Way into the target",
        description="How the target is reached.",
        section=TECHNICAL,
        values_display={
            "auto": "auto: postgres where connection supabase_db exists, else rest",
            "postgres": "postgres: connection supabase_db",
            "rest": "rest: the Supabase client, connection supabase",
        },
    )


class Request:
    """Checked params; a frozen dataclass whose fields are those of its form."""

    @staticmethod
    def form() -> dict[str, Param]:
        """The params of the DAG."""
        raise NotImplementedError

    @classmethod
    def of(cls, context: Context) -> Self:
        """Read from a task's context, for conf of the API or the CLI bypasses the form.

        Raises:
            MigrationError: PARAM_UNKNOWN or PARAM_INVALID; it names the parameter, never what it holds.
        """
        return cls(**checked(given(context), cls.form()))


class ByHandOperator(BaseOperator):
    """Base of these steps."""

    request: ClassVar[type[Request]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"on_failure_callback": guide, **kwargs})

    def execute(self, context: Context) -> dict[str, int]:
        """Returns counts of what was done; raises MigrationError."""
        with registered(self.task_id, self.task_id):
            return self.do(self.request.of(context))

    def do(self, request: Any) -> dict[str, int]:
        """What this step does."""
        raise NotImplementedError

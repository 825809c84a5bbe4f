"""Messages to people, through Airflow's notifiers for Slack and mail; nothing where none is configured.

Telling never fails a run and delays it by no more than a few seconds: whatever goes wrong is a warning in the log.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from include.core.errors import MigrationError
from include.core.messages import EVENTS, Message
from plugins.hooks.run_log import place_of

if TYPE_CHECKING:
    from plugins.hooks.target import Target

LOG = logging.getLogger("mdw_migration")

SLACK, MAIL_TO, MAIL_FROM = (
    "MIGRATION_NOTIFY_SLACK_CONN_ID",
    "MIGRATION_NOTIFY_EMAIL_TO",
    "MIGRATION_NOTIFY_EMAIL_FROM",
)
SMTP, CHOSEN = "MIGRATION_NOTIFY_SMTP_CONN_ID", "MIGRATION_NOTIFY_EVENTS"
_LONGEST_SECONDS = 10
_ADDRESS = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+")
_CONNECTION = re.compile(r"[\w.-]{1,200}")


@dataclass(frozen=True)
class Channels:
    """Who is told what, and how.

    Attributes:
        slack: id of the connection with the incoming webhook; empty: nobody there.
        mail_to: addresses; none: nobody.
        mail_from: the sender; empty: that of the connection.
        smtp: id of the mail server's connection.
        events: what is told.
    """

    slack: str = ""
    mail_to: tuple[str, ...] = ()
    mail_from: str = ""
    smtp: str = "smtp_default"
    events: tuple[str, ...] = EVENTS

    @classmethod
    def configured(cls, environment: Mapping[str, str]) -> Channels:
        """As the environment says.

        Raises:
            MigrationError: PARAM_INVALID, naming the variable and not what it holds.
        """
        slack, smtp = environment.get(SLACK, ""), environment.get(SMTP) or "smtp_default"
        for variable, name in ((SLACK, slack or "none"), (SMTP, smtp)):
            if not _CONNECTION.fullmatch(name):
                raise MigrationError("PARAM_INVALID", f"{variable} must be the id of an Airflow connection.")
        sender = environment.get(MAIL_FROM, "").strip()
        if sender and not _ADDRESS.fullmatch(sender):
            raise MigrationError("PARAM_INVALID", f"{MAIL_FROM} must be one mail address.")
        return cls(slack, _addresses(environment), sender, smtp, _events(environment))

    def missing_connections(self) -> list[str]:
        """Those of the connections needed that Airflow does not know."""
        needed = [self.slack] * bool(self.slack) + [self.smtp] * bool(self.mail_to)
        return [name for name in needed if not _exists(name)]

    @property
    def ways(self) -> dict[str, Callable[[Message], None]]:
        """Name of each way that is configured → what sends a message there."""
        ways: dict[str, Callable[[Message], None]] = {}
        if self.slack:
            ways["Slack"] = self._to_slack
        if self.mail_to:
            ways["mail"] = self._to_mail
        return ways

    # The notifiers are not called but told to notify: a call would render what they hold as a Jinja template, and the
    # id of a run is whatever the person who triggered it has typed.

    def _to_slack(self, message: Message) -> None:
        from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier  # noqa: PLC0415

        SlackWebhookNotifier(
            slack_webhook_conn_id=self.slack,
            text=message.to_slack(),
            timeout=_LONGEST_SECONDS,
            unfurl_links=False,
            unfurl_media=False,
            retry_handlers=[],
        ).notify({})  # type: ignore[no-untyped-call]

    def _to_mail(self, message: Message) -> None:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier  # noqa: PLC0415

        SmtpNotifier(
            to=[*self.mail_to],
            from_email=self.mail_from or None,
            subject=message.subject,
            html_content=message.to_html(),
            smtp_conn_id=self.smtp,
        ).notify({})


def _exists(connection: str) -> bool:
    try:
        BaseHook.get_connection(connection)
    except AirflowNotFoundException:
        return False
    return True


def tell(target: Target | None, run_id: str, message: Message) -> None:
    """Send a message wherever it is to go, unless the same was told before.

    Args:
        target: remembers what was told; None or out of reach: it is told once too often rather than never.
    """
    try:
        channels = Channels.configured(os.environ)
    except MigrationError as error:
        LOG.warning("Nobody was told: %s", error.detail)
        return
    ways = channels.ways
    if ways and message.event in channels.events and _is_new(target, run_id, message):
        _send(ways, message)


def run_link(dag_id: str, run_id: str) -> str:
    """Address of a run's page; empty where Airflow does not know its own (``[api] base_url``)."""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    if not base.startswith(("http://", "https://")):
        return ""
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def _is_new(target: Target | None, run_id: str, message: Message) -> bool:
    if target is None:
        return True
    try:
        return bool(target.call("claim_notification", run=run_id, event=message.event, about=message.about))
    except MigrationError as error:
        LOG.warning("Whether %r was told before is not known: [%s]", message.event, error.code)
        return True


def _send(ways: Mapping[str, Callable[[Message], None]], message: Message) -> None:
    """All ways at the same time, each in a thread of its own: a mail server may take minutes to be given up."""
    threads = {
        name: threading.Thread(target=_deliver, args=(name, way, message), daemon=True)
        for name, way in ways.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + _LONGEST_SECONDS
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            LOG.warning(
                "Telling %r by %s takes more than %d s; the run goes on.",
                message.event,
                name,
                _LONGEST_SECONDS,
            )


def _deliver(name: str, way: Callable[[Message], None], message: Message) -> None:
    try:
        way(message)
    except Exception as error:  # noqa: BLE001 - whoever cannot be told must not fail a run; the text may hold a secret
        facts = {"error": type(error).__name__, **place_of(error)}
        LOG.warning(
            "Telling %r by %s failed: %s", message.event, name, facts["error"], extra={"facts": facts}
        )
    else:
        LOG.info("Told %r by %s.", message.event, name)


def _addresses(environment: Mapping[str, str]) -> tuple[str, ...]:
    addresses = tuple(part.strip() for part in environment.get(MAIL_TO, "").split(",") if part.strip())
    if not all(map(_ADDRESS.fullmatch, addresses)):
        raise MigrationError("PARAM_INVALID", f"{MAIL_TO} must be mail addresses, separated by commas.")
    return addresses


def _events(environment: Mapping[str, str]) -> tuple[str, ...]:
    events = tuple(part.strip() for part in environment.get(CHOSEN, "").split(",") if part.strip()) or EVENTS
    if unknown := [event for event in events if event not in EVENTS]:
        raise MigrationError(
            "PARAM_INVALID", f"{CHOSEN} names {len(unknown)} unknown events; known are {list(EVENTS)}."
        )
    return events

"""Messages to people: through real sockets, at most once, never in the way of a run, and never as a template."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from email.message import Message as Mail
from typing import Any

import pytest

from include.core.errors import MigrationError
from include.core.messages import Message, review
from include.core.preflight import Status
from plugins.hooks import notifications
from plugins.hooks.notifications import CHOSEN, MAIL_FROM, MAIL_TO, SLACK, SMTP, Channels, run_link, tell
from plugins.operators.preflight_checks import _notifications
from tests.hooks.loading import Target
from tests.sinks import SECRET, MailServer, Slack, mail_text, serving

BOTH_WAYS = True
MESSAGE = Message(
    "failed",
    "mdw: <b>failed</b> & {{ 7 * 7 }}",
    ("Run {{ conn.supabase.password }}",),
    "loading.cases",
    "https://a/b",
)


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    made = Slack()
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_OPS", made.connection)
    monkeypatch.setenv(SLACK, "slack_ops")
    with serving(made.server):
        yield made


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mail]]:
    made = MailServer()
    monkeypatch.setenv("AIRFLOW_CONN_MAIL_OPS", made.connection)
    monkeypatch.setenv(SMTP, "mail_ops")
    monkeypatch.setenv(MAIL_TO, "ops@clinic.test, second@clinic.test")
    with serving(made.server):
        yield made.mails


class TestWays:
    def test_slack_gets_the_text_with_its_markup_escaped(self, slack: Slack) -> None:
        tell(None, "run", MESSAGE)
        (posted,) = slack.posted
        assert posted["path"].endswith(SECRET)
        assert "&lt;b&gt;failed&lt;/b&gt; &amp;" in posted["text"]
        assert "<https://a/b|Open the run>" in posted["text"]

    def test_nothing_in_a_message_is_a_template(self, slack: Slack, mails: list[Mail]) -> None:
        tell(None, "run", MESSAGE)
        for text in (slack.posted[0]["text"], mail_text(mails[0])):
            assert "{{ 7 * 7 }}" in text
            assert "{{ conn.supabase.password }}" in text

    def test_mail_goes_to_all(self, mails: list[Mail]) -> None:
        tell(None, "run", MESSAGE)
        (mail,) = mails
        assert mail["To"] == "ops@clinic.test, second@clinic.test"
        assert mail["From"] == "airflow@clinic.test"
        assert mail["Subject"] == f"[MDW migration] {MESSAGE.title}"
        assert "&lt;b&gt;failed&lt;/b&gt;" in mail_text(mail)

    def test_who_is_not_configured_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(*_: object) -> None:
            raise AssertionError("somebody was told")

        monkeypatch.setattr(notifications, "_send", nobody)
        tell(None, "run", MESSAGE)

    def test_events_can_be_chosen(self, slack: Slack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CHOSEN, "failed, review")
        tell(None, "run", Message("succeeded", "done", ()))
        tell(None, "run", MESSAGE)
        assert [post["text"].splitlines()[0] for post in slack.posted] == [
            "*mdw: &lt;b&gt;failed&lt;/b&gt; &amp; {{ 7 * 7 }}*"
        ]


class TestTrouble:
    def test_a_failure_to_tell_is_a_warning_without_the_secret(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mails: list[Mail]
    ) -> None:
        broken = Slack(status=404)
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_OPS", broken.connection)
        monkeypatch.setenv(SLACK, "slack_ops")
        with serving(broken.server), caplog.at_level(logging.INFO, "mdw_migration"):
            tell(None, "run", MESSAGE)
        assert len(mails) == 1
        assert [r.levelname for r in caplog.records if "by Slack failed" in r.message] == ["WARNING"]
        assert SECRET.rpartition("/")[2] not in caplog.text

    def test_a_connection_that_does_not_exist_fails_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv(SLACK, "nobody_made_it")
        with caplog.at_level(logging.INFO, "mdw_migration"):
            tell(None, "run", MESSAGE)
        assert "Telling 'failed' by Slack failed" in caplog.text

    def test_a_silent_server_delays_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        silent = Slack(wait=3.0)
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_OPS", silent.connection)
        monkeypatch.setenv(SLACK, "slack_ops")
        monkeypatch.setattr(notifications, "_LONGEST_SECONDS", 0.5)
        with serving(silent.server), caplog.at_level(logging.INFO, "mdw_migration"):
            began = time.monotonic()
            tell(None, "run", MESSAGE)
            assert time.monotonic() - began < 2.0
        assert "the run goes on" in caplog.text

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            (SLACK, "https://hooks.slack.test/services/T/B/secret"),
            (SMTP, "two words"),
            (MAIL_TO, "nobody"),
            (MAIL_TO, "a@b.test\nBcc: c@d.test"),
            (MAIL_FROM, "a@b.test, c@d.test"),
            (CHOSEN, "succeeded,everything"),
        ],
    )
    def test_settings_that_cannot_be_are_refused_without_repeating_them(
        self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(MigrationError, match=variable) as refused:
            Channels.configured({variable: value})
        assert refused.value.code == "PARAM_INVALID"
        assert value not in str(refused.value)
        monkeypatch.setenv(variable, value)
        tell(None, "run", MESSAGE)
        assert variable in caplog.text


class TestOnce:
    def test_the_same_is_told_once_a_run(self, slack: Slack, target: Target) -> None:
        other = Message("failed", "another", (), "loading.patients")
        for message in (MESSAGE, MESSAGE, other, MESSAGE):
            tell(target.api, "run-1", message)
        tell(target.api, "run-2", MESSAGE)
        assert len(slack.posted) == 3

    def test_waiting_pairs_are_told_again_only_when_their_number_changed(
        self, slack: Slack, target: Target
    ) -> None:
        for run, pairs in (("a", 5), ("b", 5), ("c", 7), ("d", 5), ("d", 5)):
            tell(target.api, run, review(pairs))
        told = [post["text"].splitlines()[0] for post in slack.posted]
        assert told == [f"*{pairs} pairs of patients wait for a review*" for pairs in (5, 7, 5)]

    def test_a_target_out_of_reach_keeps_nobody_from_being_told(self, slack: Slack) -> None:
        class Gone:
            def call(self, *_: Any, **__: Any) -> Any:
                raise MigrationError("TARGET_UNREACHABLE", "")

        tell(Gone(), "run", MESSAGE)  # type: ignore[arg-type]
        assert len(slack.posted) == 1


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("", ""),
        ("https://a.test/airflow/", "https://a.test/airflow/dags/d/runs/manual__1%2F%2B"),
        ("/airflow", ""),
    ],
)
def test_the_link_needs_an_address(base: str, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    assert run_link("d", "manual__1/+") == link


def test_a_connection_that_is_needed_and_missing_is_named(mails: list[Mail]) -> None:
    known = Channels(mail_to=("a@b.test",), smtp="mail_ops")
    assert known.missing_connections() == []
    assert Channels(slack="nobody_made_it", smtp="nor_this").missing_connections() == ["nobody_made_it"]


class TestPreflight:
    def test_nobody_to_tell_is_no_fault(self) -> None:
        outcome = _notifications()
        assert (outcome.status, outcome.why) == (
            Status.SKIPPED,
            "Nobody is told of runs: neither Slack nor mail is configured.",
        )

    def test_says_who_is_told_what(
        self, slack: Slack, mails: list[Mail], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CHOSEN, "failed")
        outcome = _notifications()
        assert (outcome.status, outcome.why) == (Status.PASS, "failed are told by Slack, mail.")
        assert slack.posted == mails == []

    def test_warns_of_a_connection_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(SLACK, "nobody_made_it")
        outcome = _notifications()
        assert outcome.status == Status.WARN
        assert "nobody_made_it" in outcome.why

"""OpenAI's Batch API by the real client over a socket."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from include.core.errors import MigrationError
from plugins.hooks.openai_batches import JobState, OpenAIBatches
from plugins.hooks.openai_provider import OpenAIProvider
from tests.embedding_server import KEY, POISON, EmbeddingServer, Fault, encoded, tokens_of, true_vector

DIMENSIONS = 8
TEXTS = {f"{number:064x}": f"secret text number {number}" for number in range(20)}
LABELS = {"entity": "cases", "texts": "0123456789abcdef"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with EmbeddingServer(dimensions=DIMENSIONS) as running:
        yield running


@pytest.fixture
def batches(server: EmbeddingServer) -> OpenAIBatches:
    return OpenAIBatches(OpenAIProvider(KEY, dimensions=DIMENSIONS, base_url=server.url, timeout_seconds=5))


def collected(batches: OpenAIBatches, job: str) -> dict[str, Any]:
    answers = list(batches.collect(job))
    assert len({text_id for text_id, _ in answers}) == len(answers)
    return dict(answers)


def vectors_only(answers: dict[str, Any]) -> dict[str, list[float]]:
    return {text_id: vector.tolist() for text_id, vector in answers.items() if not isinstance(vector, str)}


def expected(ids: Iterable[str]) -> dict[str, list[float]]:
    return {text_id: true_vector(TEXTS[text_id], DIMENSIONS).tolist() for text_id in ids}


# --- a job that goes well ---


def test_a_job_embeds_every_text(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    job = batches.submit(TEXTS, LABELS)
    tokens = sum(map(tokens_of, TEXTS.values()))
    assert batches.state(job) == JobState("done", total=20, done=20, failed=0, tokens=tokens)
    answers = collected(batches, job)
    assert all(vector.dtype == np.float32 for vector in answers.values())
    assert vectors_only(answers) == expected(TEXTS)
    assert server.sent == dict.fromkeys(TEXTS.values(), 1)


def test_a_line_is_what_a_direct_request_would_be(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    batches.submit({"a" * 64: "Zahn 日本\u2028 <|endoftext|>"}, LABELS)
    file = next(iter(server.files.values()))
    assert file.count(b"\n") == 1
    assert json.loads(file) == {
        "custom_id": "a" * 64,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {
            "input": "Zahn 日本\u2028 <|endoftext|>",
            "model": "text-embedding-3-small",
            "dimensions": DIMENSIONS,
            "encoding_format": "base64",
        },
    }
    request = server.requests[-1].json
    week = {"anchor": "created_at", "seconds": 604_800}
    assert (request["endpoint"], request["completion_window"]) == ("/v1/embeddings", "24h")
    assert (request["metadata"], request["output_expires_after"]) == (LABELS, week)
    [upload] = [received for received in server.requests if received.path == "/v1/files"]
    assert b"batch" in upload.body
    assert b"expires_after" in upload.body


def test_a_job_is_waited_for(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.batch_seconds = 60
    job = batches.submit(TEXTS, LABELS)
    assert batches.state(job) == JobState("waiting", total=20)
    server.batch_seconds = 0
    assert batches.state(job).status == "done"


@pytest.mark.parametrize("status", ["validating", "finalizing", "cancelling", "something new"])
def test_a_status_that_is_no_end_is_waited_out(
    server: EmbeddingServer, batches: OpenAIBatches, status: str
) -> None:
    job = batches.submit(TEXTS, LABELS)
    server.jobs[job]["status"] = status
    assert batches.state(job).status == "waiting"


def test_a_bill_that_is_not_given_is_none(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.batch_usage = False
    assert batches.state(batches.submit(TEXTS, LABELS)).tokens is None


def test_large_answers_are_read_line_by_line(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    texts = {f"{number:064x}": f"text {number}" for number in range(3_000)}
    job = batches.submit(texts, LABELS)
    answers = batches.collect(job)
    first, _ = next(answers)
    # All is here when the first answer is: the provider is not kept waiting.
    asked = len(server.requests)
    assert {first} | {text_id for text_id, _ in answers} == set(texts)
    assert len(server.requests) == asked


# --- sizes ---


def test_texts_are_cut_into_jobs_by_number_and_size(
    batches: OpenAIBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (batches.max_texts, batches.max_bytes) == (50_000, 200_000_000)
    monkeypatch.setattr(batches, "max_texts", 8)
    assert [len(part) for part in batches.parts(TEXTS)] == [8, 8, 4]
    line = len(batches._line(*next(iter(TEXTS.items()))))
    monkeypatch.setattr(batches, "max_bytes", 3 * line + 5)
    parts = list(batches.parts(TEXTS))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    assert {text_id: text for part in parts for text_id, text in part.items()} == TEXTS
    for part in parts:
        batches.submit(part, LABELS)
    assert list(batches.parts({})) == []


@pytest.mark.parametrize("limit", ["max_texts", "max_bytes"])
def test_what_is_no_job_is_not_sent(
    server: EmbeddingServer, batches: OpenAIBatches, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    with pytest.raises(ValueError, match="no job"):
        batches.submit({}, LABELS)
    monkeypatch.setattr(batches, limit, 19)
    with pytest.raises(ValueError, match="20 texts"):
        batches.submit(TEXTS, LABELS)
    assert server.requests == []


# --- found again ---


def test_a_job_that_nobody_recorded_is_found(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    assert batches.find(LABELS) is None
    job = batches.submit(TEXTS, LABELS)
    for number in range(150):
        batches.submit({"b": "another"}, LABELS | {"texts": f"{number}"})
    assert batches.find(LABELS) == job
    assert batches.find({"entity": "cases", "texts": "other"}) is None


def test_a_list_without_pages_has_an_end(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.pages_exist = False
    batches.submit(TEXTS, LABELS)
    assert batches.find({"entity": "cases", "texts": "other"}) is None


def test_the_newest_of_several_is_found(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    batches.submit(TEXTS, LABELS)
    later = batches.submit(TEXTS, LABELS)
    server.jobs["unlabelled"] = server.jobs[later] | {"id": "unlabelled", "metadata": None}
    assert batches.find(LABELS) == later


@pytest.mark.parametrize("status", ["failed", "cancelling", "cancelled"])
def test_a_job_without_answers_is_not_found(
    server: EmbeddingServer, batches: OpenAIBatches, status: str
) -> None:
    server.jobs[batches.submit(TEXTS, LABELS)]["status"] = status
    assert batches.find(LABELS) is None


def test_a_forgotten_or_old_job_is_not_found(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    forgotten = batches.submit(TEXTS, LABELS)
    batches.forget(forgotten)
    assert batches.find(LABELS) is None
    server.jobs[batches.submit(TEXTS, LABELS)]["created_at"] -= 8 * 86_400
    assert batches.find(LABELS) is None


# --- what stays at the provider ---


def test_texts_and_answers_are_deleted_there(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.poison[TEXTS[f"{3:064x}"]] = POISON
    job = batches.submit(TEXTS, LABELS)
    collected(batches, job)
    assert len(server.files) == 3
    batches.forget(job)
    assert server.files == {}
    batches.forget(job)
    batches.forget("batch_unknown")
    deleted = [received for received in server.requests if received.method == "DELETE"]
    assert deleted[0].path.endswith(server.jobs[job]["input_file_id"])


@pytest.mark.parametrize(
    ("status", "code", "files"),
    [(429, "insufficient_quota", 0), (401, "invalid_api_key", 0), (503, "busy", 1)],
)
def test_texts_without_a_job_are_deleted_there_unless_there_may_be_one(
    server: EmbeddingServer, batches: OpenAIBatches, status: int, code: str, files: int
) -> None:
    server.batch_refusal = Fault(status, error={"code": code})
    with pytest.raises(MigrationError):
        batches.submit(TEXTS, LABELS)
    assert len(server.files) == files


def test_a_file_that_is_gone_is_empty(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.poison[TEXTS[f"{3:064x}"]] = POISON
    job = batches.submit(TEXTS, LABELS)
    assert batches.state(job).status == "done"
    del server.files[server.jobs[job]["output_file_id"]]
    assert collected(batches, job) == {f"{3:064x}": "EMBEDDING_REFUSED"}
    assert collected(batches, "batch_unknown") == {}


# --- jobs that fail, wholly or in part ---


def test_refused_texts_are_named_and_the_rest_is_answered(
    server: EmbeddingServer, batches: OpenAIBatches
) -> None:
    ids = list(TEXTS)
    server.poison |= {
        TEXTS[ids[2]]: POISON,
        TEXTS[ids[3]]: Fault(429, error={"code": "insufficient_quota"}),
        TEXTS[ids[4]]: Fault(500, error={"code": "server_error"}),
        TEXTS[ids[5]]: Fault(404, error={"code": "model_not_found"}),
    }
    job = batches.submit(TEXTS, LABELS)
    state = batches.state(job)
    assert (state.status, state.done, state.failed) == ("done", 16, 4)
    answers = collected(batches, job)
    assert [answers[text_id] for text_id in ids[2:6]] == [
        "EMBEDDING_REFUSED",
        "EMBEDDING_QUOTA",
        "EMBEDDING_BUSY",
        "EMBEDDING_MODEL_UNKNOWN",
    ]
    assert vectors_only(answers) == expected([*ids[:2], *ids[6:]])


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_an_unfinished_job_gives_what_it_has(
    server: EmbeddingServer, batches: OpenAIBatches, end: str
) -> None:
    ids = list(TEXTS)
    server.batch_end, server.batch_left_out = end, {TEXTS[text_id] for text_id in ids[12:]}
    job = batches.submit(TEXTS, LABELS)
    assert (batches.state(job).status, batches.state(job).failed) == (end, 8)
    answers = collected(batches, job)
    assert vectors_only(answers) == expected(ids[:12])
    assert {answers[text_id] for text_id in ids[12:]} == {"EMBEDDING_BUSY"}


@pytest.mark.parametrize("code", ["token_limit_exceeded", "invalid_json_line"])
def test_a_failed_job_says_why(server: EmbeddingServer, batches: OpenAIBatches, code: str) -> None:
    server.batch_failure = code
    job = batches.submit(TEXTS, LABELS)
    assert batches.state(job) == JobState("failed", total=20, code=code)
    assert collected(batches, job) == {}


def test_more_than_the_queue_takes_fails_with_its_code(
    server: EmbeddingServer, batches: OpenAIBatches
) -> None:
    server.batch_seconds, server.batch_queue_tokens = 60, 150
    first = batches.submit(TEXTS, LABELS)
    assert batches.state(first).status == "waiting"
    assert batches.state(batches.submit(TEXTS, LABELS)).code == "token_limit_exceeded"


def test_a_job_that_the_provider_does_not_know_has_failed(batches: OpenAIBatches) -> None:
    assert batches.state("batch_unknown") == JobState("failed", code="job_not_found")


def with_vector(vector: object) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        answer = json.loads(line)
        answer["response"]["body"]["data"][0]["embedding"] = vector
        return json.dumps(answer).encode()

    return change


def with_part(**parts: object) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps(json.loads(line) | parts).encode()


WRONG_LINES: dict[str, Callable[[bytes], bytes]] = {
    "wrong dimension": with_vector(encoded(np.ones(DIMENSIONS + 1))),
    "NaN": with_vector(encoded(np.full(DIMENSIONS, np.nan))),
    "zero": with_vector(encoded(np.zeros(DIMENSIONS))),
    "no base64": with_vector("~"),
    "null": with_vector(None),
    "no response": with_part(response=None),
    "no body": with_part(response={"status_code": 200}),
    "status in words": with_part(response={"status_code": "200", "body": {}}),
    "no data": with_part(response={"status_code": 200, "body": {"data": []}}),
    "response no object": with_part(response="good"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_wrong_answers_are_noticed(server: EmbeddingServer, batches: OpenAIBatches, name: str) -> None:
    ids = list(TEXTS)

    def change(lines: list[bytes]) -> list[bytes]:
        return [*lines[:7], WRONG_LINES[name](lines[7]), *lines[8:]]

    server.batch_change = change
    answers = collected(batches, batches_done(batches))
    assert answers[ids[7]] == "EMBEDDING_WRONG_ANSWER"
    assert vectors_only(answers) == expected([*ids[:7], *ids[8:]])


def batches_done(batches: OpenAIBatches) -> str:
    job = batches.submit(TEXTS, LABELS)
    assert batches.state(job).status == "done"
    return job


@pytest.mark.parametrize(
    "line", [b"no JSON", b"[]", b"7", b'{"custom_id": 7}', b'{"response": {}}', b"\xff\xfe", b""]
)
def test_lines_that_cannot_be_read_spoil_no_other(
    server: EmbeddingServer, batches: OpenAIBatches, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server.batch_change = lambda lines: [*lines[:3], line, *lines[3:]]
    assert vectors_only(collected(batches, batches_done(batches))) == expected(TEXTS)
    assert ("1 lines unreadable" in caplog.text) == bool(line)


def test_a_truncated_last_line_leaves_its_text_unanswered(
    server: EmbeddingServer, batches: OpenAIBatches
) -> None:
    ids = list(TEXTS)
    server.poison[TEXTS[ids[0]]] = POISON
    server.batch_change = lambda lines: [*lines[:-1], lines[-1][:100]]
    answers = collected(batches, batches_done(batches))
    # The error file behind it is read all the same.
    assert answers.pop(ids[0]) == "EMBEDDING_REFUSED"
    assert vectors_only(answers) == expected(ids[1:-1])


def test_a_text_with_two_answers_has_none(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    ids = list(TEXTS)
    server.batch_change = lambda lines: [*lines, with_part(custom_id=ids[4])(lines[9])]
    answers = collected(batches, batches_done(batches))
    assert answers.pop(ids[4]) == "EMBEDDING_WRONG_ANSWER"
    assert vectors_only(answers) == expected([*ids[:4], *ids[5:]])


# --- providers and networks ---


def test_a_provider_without_batches_is_named(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.batches_exist = False
    asks: list[Callable[[], object]] = [lambda: batches.submit(TEXTS, LABELS), lambda: batches.find(LABELS)]
    for ask in asks:
        with pytest.raises(MigrationError, match="ai_batch_api off") as caught:
            ask()
        assert (caught.value.code, caught.value.transient) == ("EMBEDDING_BATCH_UNSUPPORTED", False)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"id": "batch_12', "EMBEDDING_WRONG_ANSWER"),
        (b"{}", "EMBEDDING_WRONG_ANSWER"),
        (b'"secret"', "EMBEDDING_WRONG_ANSWER"),
        (b"7", "EMBEDDING_WRONG_ANSWER"),
        (b" <!DOCTYPE html><p>Sign in</p>", "EMBEDDING_BATCH_UNSUPPORTED"),
    ],
)
def test_what_is_no_answer_of_the_api_is_noticed(
    server: EmbeddingServer, batches: OpenAIBatches, raw: bytes, code: str
) -> None:
    server.batch_raw = raw
    asks: list[Callable[[], object]] = [
        lambda: batches.submit(TEXTS, LABELS),
        lambda: batches.find(LABELS),
        lambda: batches.state("batch_1"),
    ]
    server.jobs["batch_1"] = {"id": "batch_1", "status": "completed"}
    for ask in asks:
        with pytest.raises(MigrationError) as caught:
            ask()
        assert caught.value.code == code


def test_errors_give_nothing_away(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    server.shutdown()
    server.server_close()
    asks: list[Callable[[], object]] = [
        lambda: batches.submit(TEXTS, LABELS),
        lambda: batches.find(LABELS),
        lambda: batches.state("batch_1"),
        lambda: list(batches.collect("batch_1")),
        lambda: batches.forget("batch_1"),
    ]
    for ask in asks:
        with pytest.raises(MigrationError) as caught:
            ask()
        assert (caught.value.code, caught.value.transient) == ("EMBEDDING_BUSY", True)
        shown = f"{caught.value}{pickle.dumps(caught.value)!r}"
        assert "secret" not in shown
        assert KEY not in shown


def test_a_download_that_breaks_off_is_transient(server: EmbeddingServer, batches: OpenAIBatches) -> None:
    job = batches_done(batches)
    server.cut_files = True
    with pytest.raises(MigrationError) as caught:
        next(batches.collect(job))
    assert (caught.value.code, caught.value.transient) == ("EMBEDDING_BUSY", True)
    server.cut_files = False
    assert vectors_only(collected(batches, job)) == expected(TEXTS)

"""What a report says of embeddings."""

from __future__ import annotations

from typing import Any

from include.core import report_ai

ESTIMATE = {
    "provider": "openai",
    "model": "m",
    "leaves": True,
    "account": "openai api.example.com m",
    "columns": ["projects.status", "projects.created_at"],
    "documents": 12,
    "wanted": 12,
    "texts": 10,
    "tokens": 100,
    "cost": "0.1",
}


def request(state: str, texts: int, tokens: int = 0, **values: Any) -> dict[str, Any]:
    made = {"entity": "projects", "provider": "openai", "model": "m", "state": state, "requests": 1}
    return {**made, "texts": texts, "tokens": tokens, "billed_tokens": tokens, "cost": "0.1", **values}


def facts(*requests: dict[str, Any], **estimate: Any) -> dict[str, Any]:
    return {"estimates": {"projects": {**ESTIMATE, **estimate}}, "requests": list(requests), "spent": "0.1"}


def left(*requests: dict[str, Any], **estimate: Any) -> str:
    return report_ai.what_left({"embeddings": report_ai.embeddings(facts(*requests, **estimate), 5.0)})


class TestWhatLeft:
    def test_it_names_texts_address_and_columns(self) -> None:
        assert left(request("answered", 10)) == (
            "What left this system: 10 texts of projects to openai api.example.com m,"
            " made of projects.status, projects.created_at."
        )

    def test_refused_texts_left_as_well(self) -> None:
        assert "4 texts of projects" in left(request("refused", 4))
        assert "10 texts of projects" in left(request("refused", 3), request("answered", 9))

    def test_a_text_that_was_sent_again_is_one_text(self) -> None:
        assert "10 texts" in left(request("lost", 8), request("refused", 7), request("answered", 10))

    def test_what_was_not_sent_did_not_leave(self) -> None:
        assert left(request("unsent", 10)) == "What left this system: nothing."

    def test_nothing_leaves_for_a_local_provider(self) -> None:
        assert left(request("answered", 10), leaves=False) == "What left this system: nothing."

    def test_without_requests_nothing_left(self) -> None:
        assert left() == "What left this system: nothing."


class TestSums:
    def test_what_is_billed_stands_beside_the_estimate(self) -> None:
        made = [request("answered", 9, 90), request("lost", 1, 7), request("refused", 5, 50, billed_tokens=0)]
        [entity] = report_ai.embeddings(facts(*made), 5.0)["entities"]
        assert (entity["estimated_tokens"], entity["tokens"], entity["texts"]) == (100, 97, 10)
        assert (entity["estimated_cost"], entity["cost"]) == ("0.1", "0.2")

    def test_estimates_without_requests_and_nothing_at_all(self) -> None:
        planned = {"embeddings": report_ai.embeddings(facts(), 5.0)}
        assert report_ai.spent(planned) == (
            "Embeddings: 0.100000 US dollars spent, 0.100000 estimated, ai_budget 5."
        )
        assert report_ai.spent({"embeddings": report_ai.embeddings({}, None)}) == ""

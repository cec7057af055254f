"""The service against its own OpenAPI description: whatever schemathesis makes of it, no answer is a 500, and each is as described."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.wat2mds.serve.conftest import TOKEN, Served

EXAMPLES = 12  # of each operation, of what fits the description and of what does not
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
def test_no_answer_is_a_500(served: Served, mode: GenerationMode) -> None:
    description = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    asked = set()
    for result in description.get_all_operations():
        operation = result.ok()
        if mode == GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue  # there is nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS, timeout=60)
            asked.add((case.method, case.path))

        ask()
    assert {("POST", "/api/search"), ("POST", "/knn-service"), ("POST", "/api/subsets"), ("GET", "/images/{uid}")} <= asked

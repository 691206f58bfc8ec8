"""The service asked whatever its OpenAPI document allows, and what it does not: by Schemathesis, over HTTP."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.generation.case import Case

from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.served_models import MODEL, client_of, put_live, service_of

EXAMPLES = 60
BROKEN = httpx.codes.INTERNAL_SERVER_ERROR
NOT_NOW = httpx.codes.SERVICE_UNAVAILABLE
LOOKED_AT = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not-allowed"])
def test_nothing_that_is_asked_breaks_the_service(isolated: Settings, tmp_path: Path, mode: GenerationMode) -> None:
    """No answer is 5xx but that the service cannot now; each is what the document says, and what it allows is answered."""
    put_live(isolated)
    statuses: Counter[tuple[str, int]] = Counter()
    with client_of(service_of(isolated, tmp_path, MODEL), tmp_path, Role.ADMIN) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
        for operation in operations:

            @LOOKED_AT
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: "Case[Any]") -> None:
                answer = case.call(base_url=str(client.base_url), headers=dict(client.headers))
                statuses[case.operation.label, answer.status_code] += 1
                assert answer.status_code < BROKEN or answer.status_code == NOT_NOW, answer.text
                case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])

            ask()
    asked = {label for label, _ in statuses}

    assert len(asked) == len(operations) == sum(1 for _ in schema.get_all_operations())
    assert statuses["POST /v1/models/flight_delay:predict", 200] or mode is GenerationMode.NEGATIVE

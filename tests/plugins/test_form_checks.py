"""Forms that contradict themselves are refused with the reason; whatever else is asked reaches Airflow as it came."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from wat2mds_form import IMPORT_PARAMS, PARAMS, RETRY_PARAMS
from wat2mds_form_checks import FormChecks, contradiction
from wat2mds_subset_form import SUBSET_PARAMS

BATCH = "CC-MAIN-2023-50.1700679099281.67.b03"

LONG = b'{"conf": {"x": "' + b"y" * 3_000_000 + b'"}}'


async def echo(request: Request) -> Response:
    return Response(await request.body())


CLIENT = TestClient(
    Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST", "PATCH"])], middleware=[Middleware(FormChecks)])
)


@pytest.mark.parametrize(
    ("dag", "conf", "reason"),
    [
        ("build_dataset", {"batch": BATCH, "snapshot": "CC-MAIN-2023-50"}, "Snapshot would choose others: empty the field Batch"),
        ("build_dataset", {"batch": BATCH, "segment": "3", "wat_files": "1-4"}, "Segment and WAT files would choose others"),
        ("build_dataset", {"wat_files": "9-3"}, "the range 9-3 runs backwards"),
        ("build_dataset", {"settings": "download.image_sise=3"}, "Did you mean"),
        ("build_dataset", {"settings": "download.image_size=-3"}, "image_size"),
        (
            "build_dataset",
            {"image_size": 256, "settings": "download.image_size=384"},
            "256 in one place of the form and 384 in another",
        ),
        ("build_from_metadata", {"numbers": "7-1"}, "runs backwards"),
        (
            "build_from_metadata",
            {"min_source_similarity": 0.3, "settings": "import.min_similarity=0.2"},
            "leave one of them empty",
        ),
        ("build_subset", {"name": "a", "preset": "en", "where": "width > 3"}, "a preset or a condition of its own"),
        ("build_subset", {"fraction": 0.1}, "Fraction: a subset needs a name"),
    ],
)
def test_contradictions(dag, conf, reason):
    answer = CLIENT.post(f"/api/v2/dags/{dag}/dagRuns", json={"conf": conf, "logical_date": None})
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]
    answer = CLIENT.post("/api/v2/backfills", json={"dag_id": dag, "dag_run_conf": conf})
    assert reason in answer.json()["detail"]


def test_a_partition_key_beside_another_batch():
    said = contradiction("build_dataset", {"batch": BATCH}, BATCH.replace("b03", "b04"))
    assert said is not None
    assert "leave one of them empty" in said


@pytest.mark.parametrize(
    ("dag", "params"),
    [
        ("build_dataset", PARAMS),
        ("build_from_metadata", IMPORT_PARAMS),
        ("retry_downloads", RETRY_PARAMS),
        ("build_subset", SUBSET_PARAMS),
    ],
)
def test_untouched_forms_pass(dag, params):
    """As the web UI sends them: every field, with its default."""
    conf = {name: param.value if param.has_value else None for name, param in params.items()} | {"files": "a.parquet"}
    assert contradiction(dag, conf) is None
    assert contradiction(dag, {}, BATCH) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1]",
        b'{"conf": 3}',
        b'{"conf": {"batch": 3, "settings": ["a"]}}',
        b'{"conf": null}',
        b'{"conf": {"x": "' + b"y" * 3_000_000 + b'"}}',
    ],
)
def test_what_is_airflows_to_refuse_reaches_it_as_it_came(body):
    answer = CLIENT.post("/api/v2/dags/build_dataset/dagRuns", content=body)
    assert (answer.status_code, answer.content) == (200, body)


def test_other_requests_are_left_alone():
    bad = {"conf": {"batch": BATCH, "snapshot": "CC-MAIN-2023-50"}}
    assert CLIENT.post("/api/v2/dags/somebody_elses/dagRuns", json=bad).status_code == 200
    assert CLIENT.post("/api/v2/dags/build_dataset/clearTaskInstances", json=bad).status_code == 200
    assert CLIENT.patch("/api/v2/dags/build_dataset", json=bad).status_code == 200

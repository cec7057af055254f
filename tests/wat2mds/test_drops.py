"""The classes of download's failures: what is ever asked for again."""

from __future__ import annotations

import pytest

from wat2mds.drops import DropReason, FailureClass
from wat2mds.stages.download.fetch import status_reason
from wat2mds.stages.download.refusal import Refused


def test_every_failure_of_download_has_a_class_and_nothing_else_has() -> None:
    assert {reason.stage for reason in DropReason if reason.failure is not None} == {"download"}
    assert all(reason.failure is not None for reason in DropReason.of_stage("download"))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451, 400, 418])
def test_a_refusal_and_what_is_gone_are_never_asked_for_again(status: int) -> None:
    assert not Refused(status_reason(status), "", status=status).at_once
    assert status_reason(status).failure is not FailureClass.TRANSIENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    assert status_reason(status).failure is FailureClass.TRANSIENT


def test_what_a_site_forbids_is_policy() -> None:
    forbidden = {DropReason.ROBOTS, DropReason.X_ROBOTS, DropReason.TDM_RESERVED, DropReason.HTTP_403}
    assert {reason.failure for reason in forbidden} == {FailureClass.POLICY}

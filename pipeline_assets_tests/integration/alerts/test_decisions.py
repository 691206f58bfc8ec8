"""Decisions about models reach their owners from the ledger of promotions, whoever decided."""

import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.alerts.sensors import alerts
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.registry.ledger import Decision
from pipeline_assets_tests.alert_endpoints import mailbox
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stream_records import until

PROJECT = load_project()
MODEL = PROJECT.model("flight_delay")


def decision(version: int) -> Decision:
    """What a gate decides, with a reason that would steer a terminal."""
    return Decision(version=version, actor="gate", reason="better\x1b[2J <b>by far</b>", live_from=datetime(2024, 5, 1, tzinfo=UTC))


def test_each_decision_since_the_first_look_is_one_mail_to_the_owner_of_the_model(
    isolated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided before is not said; a promotion and a canary that was taken back are, with who, why and where to look."""
    write_stack_env(isolated.model_copy(update={"dagster_url": "http://pages.example"}), tmp_path)
    ledger.promote(isolated, MODEL, decision(1), expected_version=None)
    cursor, platform = "", Platform(home=str(tmp_path))

    with mailbox() as box, dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setenv("PIPELINE_ALERT_URLS", json.dumps({MODEL.owner: [box.url("ml@x.example")], "*": [box.url("all@x.example")]}))

        def look() -> None:
            nonlocal cursor
            found = alerts(PROJECT)(dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": platform}))
            assert isinstance(found, dg.SensorResult)
            cursor = found.cursor or ""

        look()
        ledger.promote(isolated, MODEL, decision(2), expected_version=1)
        with warehouse(isolated) as connection:
            entries = ledger.locked(connection, MODEL)
            entries += (ledger.append(connection, MODEL, "canary", decision(3), entries, share=0.1),)
            ledger.append(connection, MODEL, "return", decision(3), entries)

        def has_come() -> bool:
            look()
            return "".join(mail.get_content() for mail in box.got).count("DECIDED: ") >= 3

        until(has_come)
        look()
        text = "".join(mail.get_content() for mail in box.got)

    assert text.count("DECIDED: ") == 3
    assert "Version 2 of flight_delay is live now" in text
    assert "Version 3 of flight_delay answers a part of the requests (10%)" in text
    assert "Version 3 of flight_delay was taken back" in text
    assert "Decided by gate: better" in text
    assert "http://pages.example/assets/" in text
    assert "\x1b" not in text
    assert {mail["to"] for mail in box.got} == {"ml@x.example"}

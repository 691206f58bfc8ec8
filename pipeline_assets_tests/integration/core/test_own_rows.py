"""Rows of the platform's own tables that somebody changed by hand to something else: named, and nothing is made of them."""

from collections.abc import Callable
from typing import Any, LiteralString

import pytest

from pipeline_assets.core.connections import online, warehouse
from pipeline_assets.core.own_rows import RowsDamaged
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting.ledger import open_job, proofs
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.served import newest_samples
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets_tests.model_rows import small_model

MODEL = small_model("changed_by_hand")
ENTRY: LiteralString = """
    insert into ledger.promotions (model, sequence, version, action, actor, reason, rules, live_from)
    values ('changed_by_hand', 1, 1, 'promote', 'somebody', 'by hand', {}, {})
"""
PROOF: LiteralString = "insert into forgotten.proofs (id, entity, digest, begun_at, document) values ('1', 'kiosk', 'x', now(), {})"
SERVED: LiteralString = """
    insert into online.served (model, definition, positions, asked, features) values ('changed_by_hand', 'x', {}, {}, {})
"""


def in_ledger(settings: Settings, changed: LiteralString) -> None:
    """Reads the history after a change in it."""
    with warehouse(settings) as connection:
        ledger.create(connection)
        connection.execute(changed)
    ledger.history(settings, MODEL)


def in_live_versions(settings: Settings, changed: LiteralString) -> None:
    """Reads the versions that are live after a change in the ledger."""
    with warehouse(settings) as connection:
        ledger.create(connection)
        connection.execute(changed)
        ledger.live_versions(connection)


def in_quarantine(settings: Settings, changed: LiteralString) -> None:
    """Lists the quarantine after a change in it."""
    quarantine.replace(settings, "clicks", "all", [BrokenRow(position=0, field="id", reason="missing", original=b"{}")], run_id="run")
    with warehouse(settings) as connection:
        connection.execute(changed)
    quarantine.listed(settings)


def in_job(settings: Settings, changed: LiteralString) -> None:
    """Goes on with a job of forgetting whose notes were changed."""
    with warehouse(settings) as connection:
        connection.execute("create schema if not exists forgotten")
        open_job(connection, "kiosk", "x").note("doomed", ["s3://lake/1.parquet"])
        assert open_job(connection, "kiosk", "x").state == {"doomed": ["s3://lake/1.parquet"]}
        connection.execute(changed)
        open_job(connection, "kiosk", "x")


def in_proofs(settings: Settings, changed: LiteralString) -> None:
    """Lists the proofs after one was changed."""
    with warehouse(settings) as connection:
        connection.execute("create schema if not exists forgotten")
        open_job(connection, "kiosk", "x")
        connection.execute(changed)
    proofs(settings)


def in_served(settings: Settings, changed: LiteralString) -> None:
    """Reads the kept vectors after one was changed."""
    with online(settings) as connection:
        store.create(connection)
        connection.execute(changed)
        newest_samples(connection, MODEL)


Look = Callable[[Settings, Any], None]
CHANGES: dict[str, tuple[Look, str, LiteralString]] = {
    "rules-object": (in_ledger, "ledger.promotions", ENTRY.format("'{}'", "now()")),
    "rules-text": (in_ledger, "ledger.promotions", ENTRY.format("""'"all"'""", "now()")),
    "rules-numbers": (in_ledger, "ledger.promotions", ENTRY.format("'[1]'", "now()")),
    "rules-without-a-limit": (in_ledger, "ledger.promotions", ENTRY.format("""'[{"name": "roc_auc"}]'""", "now()")),
    "live-from-infinity": (in_ledger, "ledger.promotions", ENTRY.format("'[]'", "'infinity'")),
    "live-version-from-infinity": (in_live_versions, "ledger.promotions", ENTRY.format("'[]'", "'infinity'")),
    "quarantined-at-infinity": (in_quarantine, "quarantine.rows", "update quarantine.rows set quarantined_at = '-infinity'"),
    "headers-list": (in_quarantine, "quarantine.rows", "update quarantine.rows set headers = '[1]'"),
    "headers-no-base64": (in_quarantine, "quarantine.rows", """update quarantine.rows set headers = '{"ce_id": "a"}'"""),
    "job-begun-infinity": (in_job, "forgotten.jobs", "update forgotten.jobs set begun_at = 'infinity'"),
    "job-state-list": (in_job, "forgotten.jobs", "update forgotten.jobs set state = '[]'"),
    "job-state-other-shape": (in_job, "forgotten.jobs", """update forgotten.jobs set state = '{"doomed": {"a": 1}}'"""),
    "proof-null": (in_proofs, "forgotten.proofs", PROOF.format("'null'")),
    "proof-other-shape": (in_proofs, "forgotten.proofs", PROOF.format("""'{"id": "1", "places": 3}'""")),
    "served-positions": (in_served, "online.served", SERVED.format("'[{}]'", "'{}'", "'{}'")),
    "served-cut-off": (in_served, "online.served", SERVED.format("'[]'", """'{"a'""", "'{}'")),
    "served-list": (in_served, "online.served", SERVED.format("'[]'", "'{}'", "'[1]'")),
}


@pytest.mark.parametrize(("look", "table", "changed"), CHANGES.values(), ids=CHANGES)
def test_a_row_that_was_changed_by_hand_is_named_with_its_table(isolated: Settings, look: Look, table: str, changed: LiteralString) -> None:
    """Regression: rules, times and notes of another shape ended in traces, or were taken for what they are not."""
    with pytest.raises(RowsDamaged) as refused:
        look(isolated, changed)

    assert (refused.value.table, str(refused.value).endswith("restore the database from a backup.")) == (table, True)


def test_rules_that_were_changed_by_hand_keep_no_service_from_its_versions(isolated: Settings) -> None:
    """What is live is known, though the history of the model cannot be read."""
    with warehouse(isolated) as connection:
        ledger.create(connection)
        connection.execute(ENTRY.format("'{}'", "now()"))
        live = ledger.live_versions(connection)

    assert {name: one.version for name, one in live.items()} == {MODEL.name: 1}

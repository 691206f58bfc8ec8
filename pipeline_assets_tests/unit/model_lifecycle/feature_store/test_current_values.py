"""The check of a model's vectors that warns where the model takes for the past what is known now."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.model_lifecycle.feature_store import assets
from pipeline_assets.model_lifecycle.feature_store.references import CurrentUse, columns_taken, current_uses
from pipeline_assets.processing.cleaning.lineage import ColumnOrigin, DbtLineage, ModelColumns
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Latest
from pipeline_assets.spec.models import Label, Model, Observations
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.reference_models import VERSIONED, node, references

ORDERS = Observations(table="orders", keys=("order_id",), decision_at="known_at", event_at="ordered_at")
REFUNDS = Label(table="refunds", keys=("order_id",), column="is_refunded", known_at="known_at")
CUSTOMERS = FeatureView(
    name="of_customers",
    entity=Entity(name="customer", keys=("customer_id",), description="A customer."),
    source=CleanedTable(name="customers", event_at="known_at", known_at="known_at", order_by=("customer_id",)),
    features=(Latest(name="since", column="since"),),
    owner="shop@shop.example",
    description="What is known of customers.",
    freshness=flight_delay.views[0].freshness,
)
MODEL = replace(flight_delay, name="refund", observations=ORDERS, label=REFUNDS, views=(CUSTOMERS,), request_features=(), slices=("tax",))
STAGED = (names.STAGING, "stg_orders")
COUNTRIES = names.cleaned("countries")


def customers_with_versions() -> Model:
    """The model with the view of customers read from the table that has all versions."""
    source = replace(CUSTOMERS.source, name="customers_history", superseded_at="superseded_at")
    return replace(MODEL, views=(replace(CUSTOMERS, source=source),))


def test_a_model_names_the_current_values_below_all_that_it_reads() -> None:
    """Observations, label and views, each directly or through tables that join it; a view beside a history is one too."""
    orders = node("orders", "stg_orders", "countries", event_time="ordered_at")
    refunds = node("refunds", "orders", event_time="ordered_at")
    uses = current_uses(references(orders, refunds), MODEL)

    assert [(use.table, use.history, use.read_by) for use in uses] == [
        (COUNTRIES, None, ("observations", "label")),
        (names.cleaned("customers"), "customers_history", ("view of_customers",)),
    ]
    assert [use.remedy for use in uses] == [
        "Keep its versions in countries_history, as those of a followed table are. Nothing, if its values never change.",
        "Read customers_history, which has all versions.",
    ]


def test_a_model_of_versions_names_nothing() -> None:
    """Tables with all versions, and daily tables that join those, are known as of their time; what no model builds is not judged."""
    orders = node("orders", "stg_orders", "customers_history", event_time="ordered_at", columns=VERSIONED)

    assert current_uses(references(orders), customers_with_versions()) == ()


def test_the_columns_that_reach_a_model_are_found_by_lineage() -> None:
    """Through tables between, of columns that the model reads alone; no column where the lineage is not known."""
    known = {
        names.cleaned("orders"): {"tax": [(STAGED, "rate")], "note": [(COUNTRIES, "name")]},
        STAGED: {"rate": [(COUNTRIES, "tax_rate"), (COUNTRIES, "code")]},
    }  # fmt: skip

    assert columns_taken(MODEL, [COUNTRIES], lambda table: known.get(table, {})) == {COUNTRIES: ("code", "tax_rate")}
    assert columns_taken(MODEL, [COUNTRIES], lambda _: {}) == {COUNTRIES: ()}
    assert columns_taken(MODEL, [names.cleaned("customers")], lambda _: {}) == {
        names.cleaned("customers"): ("customer_id", "known_at", "since"),
    }  # fmt: skip


def checked(lineage: DbtLineage, *uses: CurrentUse) -> dg.AssetCheckResult:
    """The check of the model's vectors."""
    return assets.as_of_check(MODEL, uses, lineage)


def test_the_check_warns_with_table_columns_and_what_to_do() -> None:
    """It is no failure, reads the lineage of dbt's columns, and passes where there is nothing to name."""
    orders = ModelColumns(columns={"tax": ColumnOrigin(same_row=((COUNTRIES, "tax_rate"),))})
    lineage = DbtLineage(models={names.cleaned("orders"): orders})
    use = CurrentUse(table=COUNTRIES, history=None, read_by=("observations", "label"))
    unknown, found, none = checked(DbtLineage(), use), checked(lineage, use), checked(lineage)

    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "For the past the model takes the current values of cleaned.countries."
    assert rows_of(found) == [
        {"table": "cleaned.countries", "columns": "tax_rate", "read_by": "observations, label", "what_to_do": use.remedy},
    ]
    assert rows_of(unknown)[0]["columns"] == "none that lineage knows of"
    assert (none.passed, none.metadata) == (True, {})


def rows_of(result: dg.AssetCheckResult) -> list[dict[str, Any]]:
    """The rows of the table in a result."""
    found = (result.metadata or {})[names.CURRENT_VALUE_ONLY]
    assert isinstance(found, dg.TableMetadataValue)
    return [dict(record.data) for record in found.records]


@pytest.mark.parametrize("model", [model for one in load_project().use_cases for model in one.models], ids=lambda model: model.name)
def test_the_models_that_come_with_the_project_take_no_current_values(model: Model) -> None:
    """Every vector has the check, which blocks nothing; and all that the models read has its versions."""
    project = load_project()
    (vectors,) = [
        one for one in assets.defs(project).assets or () if isinstance(one, dg.AssetsDefinition) and one.key.path[-1] == model.name
    ]
    (check,) = [spec for spec in vectors.check_specs if spec.name == "reference_data_as_of_decision"]

    assert not check.blocking
    assert current_uses(read_models(project).references, model) == ()

"""The only maker of names: assets, tables, topics, schemas, features. A name is written here once and nowhere else."""

import re
from datetime import date, timedelta

# The twelve rooms in the diagram's order; an asset's group is its room.
SOURCES = "sources"
BATCH_INGESTION = "batch_ingestion"
STREAMING_INGESTION = "streaming_ingestion"
LAKE = "lake"
CLEANING = "cleaning"
FEATURES = "features"
FEATURE_STORE = "feature_store"
TRAINING = "training"
REGISTRY = "registry"
BATCH_INFERENCE = "batch_inference"
REALTIME_INFERENCE = "realtime_inference"
MONITORING = "monitoring"
ROOMS = (
    SOURCES, BATCH_INGESTION, STREAMING_INGESTION,
    LAKE, CLEANING, FEATURES,
    FEATURE_STORE, TRAINING, REGISTRY,
    BATCH_INFERENCE, REALTIME_INFERENCE, MONITORING,
)  # fmt: skip

# The jobs of the platform as a whole.
APPLY_CONNECTORS = "apply_connectors"
TYPE_RECORDS = "type_records"
UPDATE_FOLLOWED_TABLES = "update_followed_tables"
AUDIT_SOURCES = "audit_sources"
AUDIT_LAKE = "audit_lake"
MAINTAIN_LAKE = "maintain_lake"
RECORD_PREDICTIONS = "record_predictions"

# Checks that an alert can name.
IS_PROGRESSING = "is_progressing"
RECONCILED = "reconciled_with_source"
OBJECTS_INTACT = "objects_intact"
IS_FRESH = "is_fresh"

# The sensors of the platform as a whole.
RECORDS_LANDED = "records_landed"
TABLES_CHANGED = "tables_changed"
STREAM_HEALTH = "stream_health"
ONLINE_HEALTH = "online_health"
DATA_FRESHNESS = "data_freshness"
ENDPOINT_HEALTH = "endpoint_health"
ALIASES_MIRRORED = "aliases_mirrored"
# Below no path of Dagster's own pages.
REPORTS_PATH = "/_reports"
LINEAGE_PATH = "/_lineage"
# MLflow's pages are those for language models, unless a link says otherwise.
MLFLOW_VIEW = "?workflowType=machine_learning"
RUNS_RETRIED = "runs_retried"
ALERTS = "alerts"

# The schedules of the audits: of all sources, and of the objects of the lake.
AUDIT_DAILY = "audit_daily"
AUDIT_LAKE_DAILY = "audit_lake_daily"

# The tag of everything that belongs to a use case.
USE_CASE_TAG = "use_case"
# What the event of the newest day of a run says of all its days together.
OF_RUN = "run"
# In the metadata of what was left as it is, as it would come out the same.
UNCHANGED = "unchanged"
# The labels by which Dagster knows how many rows a table has, and how many of them are of one partition.
ROW_COUNT, PARTITION_ROWS = "dagster/row_count", "dagster/partition_row_count"
# The tag of cleaned tables that are built by the day; the others are built as a whole.
BY_DAY_TAG = "by_day"
# The mark of tables that have the rows as they are now alone: in the meta of a dbt model, and as the tag of its asset.
CURRENT_VALUE_ONLY = "current_value_only"

# Schemas of the warehouse database, and namespaces of the lake.
RAW = "raw"
STAGING = "staging"
CLEANED = "cleaned"
PREDICTIONS = "predictions"
LEDGER = "ledger"
QUARANTINE = "quarantine"
MONITOR = "monitor"
LANDED = "landed"
MAINTENANCE = "maintenance"
TYPED = "typed"
CONNECTORS = "connectors"
FORGOTTEN = "forgotten"
CATALOG = "lake"
ONLINE = "online"
ENDPOINTS = "endpoints"

# How the name of a cleaned table ends that has all versions of its rows.
HISTORY = "_history"

# The outbox of dbt: days of cleaned tables that changed since the lake has them.
CHANGED_DAYS = ("publishing", "changed_days")
# Since when cleaned tables keep all versions of their rows, as dbt notes it; those that keep them for ever are not in it.
VERSIONS_SINCE = ("publishing", "versions_since")
# Of what raw tables and those of dbt were made, and what they held then, so that what has not changed is not made again.
BUILT = ("publishing", "built")

# Partitions that are no day: a table that is loaded whole, and the quarantines of rows without any time and of events as they came.
SNAPSHOT = "snapshot"
UNDATED = "undated"
STREAM = "stream"

_SECONDS = {"d": 86_400, "h": 3_600, "min": 60}

AssetName = tuple[str, str]


def changes_connector(database: str) -> str:
    """The connector that reads the changes of a database; its slot and publication there have the name of `replication`."""
    return f"changes-{database}"


def replication(database: str) -> str:
    """The replication slot, and the publication, by which changes of a database are read."""
    return f"pipeline_{database}"


def changes_topic(database: str, schema: str, table: str) -> str:
    """The topic of the changes of a table, as Debezium names it: a sign that no topic may have becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{database}.{schema}.{table}")


def heartbeat_topic(database: str) -> str:
    """The topic by which the reader of a database's changes shows that it lives."""
    return f"__debezium-heartbeat.{database}"


def landing_connector(topic: str) -> str:
    """The connector that lands the records of a topic."""
    return f"landing-{topic}"


def landing_control_topic(topic: str) -> str:
    """The topic by which the landing of a topic agrees on its commits."""
    return f"landing-{topic}-control"


def connector(name: str) -> AssetName:
    """A connector, as the asset graph shows it."""
    return (CONNECTORS, _word(name))


def topic(name: str) -> AssetName:
    """A topic, as the asset graph shows it."""
    return ("topics", _word(name))


def landed(topic: str) -> AssetName:
    """The lake table of a topic's records as they came. Topics that differ in case alone have tables of their own."""
    return (LANDED, _word(topic))


def landed_header(header: str) -> str:
    """The column that a header lands in, beside the record's value."""
    return _plain(header)


def _plain(name: str) -> str:
    return _word(name).lower()


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def source_asset(system: str, table: str) -> AssetName:
    """The table or endpoint of an outside system, as the asset graph shows it, which knows letters, digits and underscores alone."""
    return (system, _word(table))


def files_asset(folder: str, pattern: str) -> AssetName:
    """The files of an outside folder, as the asset graph shows them: without the parts of their path that differ."""
    return (folder, re.sub(r"[^a-z0-9]+", "_", re.sub(r"%.", "", pattern).lower()).strip("_"))


def build_features(use_case: str) -> str:
    """The job that takes the days of a use case from its sources to the vectors of its models."""
    return f"build_features_{use_case}"


def files_changed(use_case: str) -> str:
    """The sensor that has days of a use case materialized whose files are new, changed or gone."""
    return f"files_changed_{use_case}"


def days_changed(use_case: str) -> str:
    """The sensor that has days of a use case, or of the platform, materialized which received events."""
    return f"days_changed_{use_case}"


def cleaned_by_day(use_case: str) -> str:
    """The op that builds the dbt models of a use case that are kept by the day."""
    return f"cleaned_by_day_{use_case}"


def registers(use_case: str) -> str:
    """The op that builds the other dbt models of a use case, each as a whole."""
    return f"registers_{use_case}"


def build_online(use_case: str) -> str:
    """The job that builds the views of a use case that are not online as they are declared."""
    return f"build_online_{use_case}"


def train(model: str) -> str:
    """The job that trains a model, judges the candidate and packages what is live then."""
    return f"train_{model}"


def score(model: str) -> str:
    """The sensor that has new vectors of a model scored, and its scores watched and judged."""
    return f"score_{model}"


def load(use_case: str) -> str:
    """The sensor that has a use case load what its sources have by the day, and what is made of them."""
    return f"load_{use_case}"


def retrain(model: str) -> str:
    """The sensor that requests a retraining of a model."""
    return f"retrain_{model}"


def score_and_monitor(model: str) -> str:
    """The job that scores days with a model and monitors them."""
    return f"score_and_monitor_{model}"


def score_of(class_name: str) -> str:
    """The column of predictions that holds the probability of a class."""
    return f"score_{_plain(class_name)}"


def staged(contract: str) -> AssetName:
    """Rows of a source that kept their contract, staged as files per day."""
    return ("staged", contract)


def change_log(contract: str) -> str:
    """The contract of the changes of a followed table."""
    return f"{contract}_changes"


def typed(contract: str) -> AssetName:
    """The lake table of a stream's events that kept their contract, with the place of each in its topic."""
    return (TYPED, contract)


def lake(contract: str) -> AssetName:
    """The lake table of a source."""
    return (LAKE, contract)


def raw(contract: str) -> AssetName:
    """The warehouse table that holds a lake table's rows for dbt: `source('raw', contract)`."""
    return (RAW, contract)


def stg(contract: str) -> str:
    """The staging dbt model of a source."""
    return f"stg_{contract}"


def cleaned(table: str) -> AssetName:
    """A cleaned dbt model."""
    return (CLEANED, table)


def features(view: str) -> AssetName:
    """The lake table of a feature view."""
    return (FEATURES, view)


def online_views(table: str, kind: str) -> AssetName:
    """The views of a cleaned table that are kept online in one way: by its topic ("stream"), or by its commits ("table")."""
    return (ONLINE, f"{table}_{kind}")


def vectors(model: str) -> AssetName:
    """The lake table of a model's feature vectors: one row per observation, all features of the model joined as of its decision."""
    return (FEATURE_STORE, model)


def training_set(model: str) -> AssetName:
    """The vectors of a model with the labels known at training time."""
    return ("training_sets", model)


def candidate(model: str) -> AssetName:
    """A freshly trained model, before the gate."""
    return ("candidates", model)


def champion(model: str) -> AssetName:
    """The version that is live."""
    return ("champions", model)


def experiment(use_case: str, model: str) -> str:
    """The MLflow experiment that holds the runs of a model; its registered model has the model's own name."""
    return f"{use_case}/{model}"


# When a decision was made, in every table of requests, features, vectors and predictions; the hash of its features, in the last two.
DECISION_AT, FEATURE_HASH = "decision_at", "feature_hash"
# Which version of an observation was decided: since when it was known. Not its number, as a version that comes late moves those after it.
OBSERVATION_KNOWN_AT = "observation_known_at"
# The columns that every table of predictions has, beside the keys of its decisions and the answers of its model.
PREDICTION_COLUMNS = ("prediction_id", DECISION_AT, "model_version", FEATURE_HASH, "run_id", "vectors_snapshot_id", "scored_at")


def predictions(model: str) -> AssetName:
    """The warehouse table of a model's scores."""
    return (PREDICTIONS, model)


def package(model: str) -> AssetName:
    """What the prediction service loads: the live model with its contract and its self-test."""
    return ("packages", model)


def endpoint(model: str) -> AssetName:
    """A model as the prediction service answers with it."""
    return (ENDPOINTS, model)


def drift(model: str) -> AssetName:
    """Drift of features and score per day."""
    return (MONITOR, f"{model}_drift")


def performance(model: str) -> AssetName:
    """Performance per day where labels are known."""
    return (MONITOR, f"{model}_performance")


def maintenance(namespace: str) -> AssetName:
    """The files of all tables of one lake namespace, kept in good order."""
    return (MAINTENANCE, namespace)


def span(window: timedelta) -> str:
    """A window in the largest unit that divides it: 90min, 6h, 7d. Raises ValueError below one minute or for fractions of it."""
    seconds = int(window.total_seconds())
    for unit, size in _SECONDS.items():
        if seconds > 0 and seconds % size == 0:
            return f"{seconds // size}{unit}"
    raise ValueError(f"A window is a whole number of minutes, got {window}.")


def feature(view: str, name: str, window: timedelta | None = None) -> str:
    """The column name of a feature: `<view>__<name>`, and `_<window>` where it has one."""
    return f"{view}__{name}" if window is None else f"{view}__{name}_{span(window)}"


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of a run by which Dagster materializes the days `first` to `last` (inclusive) at once."""
    return {"dagster/asset_partition_range_start": first.isoformat(), "dagster/asset_partition_range_end": last.isoformat()}


def report_key(model: str, name: str) -> str:
    """Where a drift report is on the object store."""
    return f"reports/{model}/{name}"


def report_path(model: str, name: str) -> str:
    """Where the web server shows a drift report."""
    return f"{REPORTS_PATH}/{model}/{name}"

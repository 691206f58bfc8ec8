"""The streams that belong to the platform and to no use case: what the prediction service answered, and what was said of it afterwards.

They are declared as the streams of a use case are, and take the same way: topic, landed, typed, staged, lake, raw. Their home is a use case
without models, so that days, owners and tags have the same source everywhere.
"""

from datetime import date, timedelta

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.spec.use_case import UseCase

NAME, OWNER = "platform", "team:platform"
ROLES = ("live", "shadow", "canary")
TIERS = ("online", "last_good", "default", "caller")
# Longer than a spool is kept, and more than clocks differ by: neither an old spool nor a clock that was set back may lose a record.
LATENESS, EARLINESS = timedelta(days=400), timedelta(days=1)
LONGEST_ID = 200

PREDICTION_ID = Field(
    name="prediction_id", type="string", required=True, max_length=LONGEST_ID, description="Identifier of the prediction, as answered."
)
MODEL = Field(name="model", type="string", required=True, description="Name of the model.")
LOGGED_AT = Field(name="logged_at", type="timestamp", required=True, description="When the record reached its topic.")


def _json(name: str, description: str) -> Field:
    return Field(name=name, type="string", required=True, description=f"{description} JSON.")


prediction_log = EventStream(
    contract=Contract(
        name="prediction_log",
        version="1.1.0",
        owner=OWNER,
        description="What the prediction service answered, one row per prediction: a repeated id counts once.",
        fields=(
            PREDICTION_ID,
            MODEL,
            Field(name="model_version", type="integer", required=True, minimum=1, description="Version of the model that answered."),
            Field(
                name="role",
                type="string",
                required=True,
                allowed=ROLES,
                description="What the version was for: live, a canary that answered its share, or a shadow that nobody saw.",
            ),
            _json("keys", "Entity keys, as asked; none where the caller brought the features."),
            _json("request", "Fields of the request, as asked; none where the caller brought the features."),
            Field(name="asked_at", type="timestamp", required=True, description="When the service received the request."),
            Field(name="decision_at", type="timestamp", required=True, description="The moment as of which the features were read."),
            _json("features", "Values of all features by name, floats exact."),
            _json("feature_status", "Status of each view, by name."),
            _json("definitions", "Hash of the definition that answered, by view."),
            _json("positions", "How far each feed had followed its source: offsets, or a snapshot."),
            _json("scores", "The answer by name: a score, a value, or the probability of each class."),
            Field(name="predicted_class", type="string", description="The likeliest class; null where the model has no classes."),
            Field(
                name="tier",
                type="string",
                required=True,
                allowed=TIERS,
                description="Where the features came from: the online store, their last good values, their defaults, or the caller.",
            ),
            _json("timings_ms", "Milliseconds by step."),
            Field(name="request_id", type="string", description="Identifier of the request; those of one request have the same."),
            Field(name="trace_id", type="string", description="W3C trace id of the request."),
            LOGGED_AT,
        ),
        primary_key=("prediction_id",),
        event_at="asked_at",
        known_at="logged_at",
        lateness=LATENESS,
        earliness=EARLINESS,
        freshness=timedelta(days=7),
        broken_share=0.01,
    ),
    topic="prediction-log",
    known_at_record_time=True,
)

prediction_feedback = EventStream(
    contract=Contract(
        name="prediction_feedback",
        version="1.0.0",
        owner=OWNER,
        description="What turned out to be true of predictions, one row per prediction: a later label takes the place of the one before.",
        fields=(
            PREDICTION_ID,
            MODEL,
            _json("label", "The label: a number, a text, true, false, or null where it was taken back."),
            Field(name="actor", type="string", required=True, max_length=LONGEST_ID, description="Who gave the label."),
            Field(name="given_at", type="timestamp", required=True, description="When the label was given."),
            LOGGED_AT,
        ),
        primary_key=("prediction_id",),
        event_at="given_at",
        known_at="logged_at",
        lateness=LATENESS,
        earliness=EARLINESS,
        freshness=timedelta(days=400),
        broken_share=0.01,
    ),
    topic="prediction-feedback",
    known_at_record_time=True,
)

use_case = UseCase(
    name=NAME,
    owner=OWNER,
    description="What the platform records of itself.",
    # No prediction is older than the service.
    first_day=date(2026, 1, 1),
    last_day=None,
    sources=(),
    streams=(prediction_log, prediction_feedback),
    models=(),
)

"""The errors of the online store."""

from collections.abc import Sequence

from pipeline_assets.core.errors import PipelineError, UserInputError
from pipeline_assets.core.instants import instant_at


class StateFormatUnknown(PipelineError):
    """A state in the online store was written in another format than this code reads."""

    def __init__(self, view: str, version: int, known: int) -> None:
        self.view, self.version, self.known = view, version, known
        super().__init__(
            f"The online state of view '{view}' has format {version}; this code reads format {known}. Run the code that wrote it, "
            "or build the view anew with `pipeline features online build`."
        )


class NotOnline(UserInputError):
    """Views are asked for that the online store does not have, or not as they are declared now."""

    def __init__(self, table: str, views: Sequence[str], *, is_building: bool) -> None:
        self.table, self.views, self.is_building = table, tuple(views), is_building
        problem = "are still being built online" if is_building else "are not in the online store as they are declared now"
        remedy = "Wait for `pipeline features online build`." if is_building else "Run `pipeline features online build`."
        super().__init__(f"The views of {table} ({', '.join(self.views)}) {problem}. {remedy}")


class BehindState(UserInputError):
    """A question is asked further behind the newest that came than the online store knows."""

    def __init__(self, view: str, key: str, at_us: int, known_from_us: int) -> None:
        self.view, self.key, self.at_us, self.known_from_us = view, key, at_us, known_from_us
        super().__init__(
            f"View '{view}' is asked for {key!r} as of {instant_at(at_us).isoformat()}; the online store knows it from "
            f"{instant_at(known_from_us).isoformat()} on. Ask for a later time, or ask the lake: `pipeline features historical`."
        )


class TextsDiffer(PipelineError):
    """The online database orders texts, or changes their case, otherwise than the warehouse: dbt's SQL could give other rows there."""

    def __init__(self, expected: object, found: object) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            "The online database has another encoding or collation than the warehouse, so that dbt's SQL could give other rows there. "
            "Make it with those of the warehouse (`create database … template template0 encoding … locale_provider … locale …`)."
        )


class CopyForgets(PipelineError):
    """The server that is to copy the online states drops keys when its memory is short."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        super().__init__(
            f"The server of PIPELINE_ONLINE_VALKEY has the maxmemory-policy '{policy}', and would drop states that nobody misses. "
            "Set it to 'noeviction'."
        )


class CopyOvertaken(PipelineError):
    """Somebody else has copied the states of a feed while they were copied here."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"The copy of the online states of {table} was written by another worker meanwhile; this one no longer keeps them."
        )


class RequestFieldMissing(UserInputError):
    """A question lacks a field that a feature of the request is computed from."""

    def __init__(self, name: str, model: str, feature: str, field: str, row: int | None = None) -> None:
        self.model, self.feature, self.field, self.row = model, feature, field, row
        where = name if row is None else f"Instance {row} of {name}"
        super().__init__(
            f"{where} lacks '{field}', which the request feature '{feature}' of model '{model}' is computed from. Give it, null where "
            "there is no value; or declare a `default`."
        )


class PredictionNotLogged(UserInputError):
    """The lake has no prediction of that id."""

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        super().__init__(
            f"The lake has no prediction '{prediction_id}'. A new one arrives within seconds, by the job `type_records`; while Kafka is "
            "away the service spools it."
        )

"""Jobs of forgetting while they run, and their proofs: in the warehouse, schema `forgotten`.

Neither has the key itself: its salted hash says which job goes on, and that a key was forgotten. A job notes the keys of the entity's rows,
such as of its orders, for as long as it runs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.names import FORGOTTEN
from pipeline_assets.core.own_rows import fit, reading
from pipeline_assets.core.settings import Settings

if TYPE_CHECKING:
    import psycopg

CREATE = """
    create table if not exists forgotten.jobs (
        id text primary key,
        entity text not null,
        digest text not null,
        begun_at timestamptz not null default now(),
        state jsonb not null default '{}',
        unique (entity, digest)
    );
    create table if not exists forgotten.proofs (
        id text primary key,
        entity text not null,
        digest text not null,
        begun_at timestamptz not null,
        done_at timestamptz not null default now(),
        document jsonb not null
    );
"""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was removed of an entity: of each place what it had, and which training sets and versions of models had seen it.

    places: by name the rows, the files with such rows and the snapshots that mentioned those. model_versions: by model. left: files that
    nothing refers to, too young to be known from those of a run; maintenance deletes them. undeclared: tables that nobody could go through.
    topics: where records of the entity may stand until the broker's retention; they are not taken in again.
    """

    id: str
    entity: str
    key_digest: str
    begun_at: datetime
    done_at: datetime
    places: Mapping[str, Mapping[str, int]]
    training_sets: Sequence[str]
    model_versions: Mapping[str, Sequence[int]]
    left: Sequence[str]
    undeclared: Sequence[str]
    topics: Sequence[str]
    not_taken_in: Mapping[str, Sequence[str]]

    def to_json(self) -> str:
        """The proof as JSON; times are ISO 8601 in UTC."""
        return json.dumps(asdict(self), indent=2, default=datetime.isoformat)


class Keys(TypedDict):
    """Keys of the entity's rows, by the contract and by the model whose rows they identify."""

    by_contract: dict[str, list[tuple[str, ...]]]
    by_model: dict[str, list[tuple[str, ...]]]


class State(TypedDict, total=False):
    """What a job notes while it runs: keys, rows by place, and files by their paths; as it is read back."""

    found: Keys
    held: dict[str, dict[str, int]]
    training_sets: list[str]
    model_versions: dict[str, list[int]]
    doomed: list[str]
    commits: list[str]


@dataclass(kw_only=True)
class Job:
    """A job that is under way; what it notes is there after a kill."""

    connection: "psycopg.Connection"
    id: str
    begun_at: datetime
    state: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: object) -> None:
        """Writes a part of the state down."""
        from psycopg.types.json import Jsonb

        self.state[name] = value
        self.connection.execute("update forgotten.jobs set state = %s where id = %s", [Jsonb(self.state), self.id])

    def will_delete(self, paths: Iterable[str]) -> None:
        """Writes down files before what refers to them is gone."""
        self.note("doomed", sorted({*self.state.get("doomed", ()), *paths}))

    def will_commit(self, name: str) -> None:
        """Writes down by which name the files of a commit are known."""
        self.note("commits", [*self.state.get("commits", ()), name])


def open_job(connection: "psycopg.Connection", entity: str, digest: str) -> Job:
    """The job of a key that is under way, or a new one; the connection commits each statement by itself."""
    connection.execute(CREATE)
    connection.execute(
        "insert into forgotten.jobs (id, entity, digest) values (%s, %s, %s) on conflict do nothing", [uuid4().hex, entity, digest]
    )
    query = "select id, begun_at, state from forgotten.jobs where entity = %s and digest = %s"
    with reading("forgotten.jobs"):
        ((number, begun_at, state),) = connection.execute(query, [entity, digest]).fetchall()
        fit(State, state)
    return Job(connection=connection, id=number, begun_at=begun_at, state=state)


def close_job(settings: Settings, job: Job, proof: Proof) -> str:
    """Keeps the proof, as a row and as JSON on the object store, and drops the job with all that it noted; where the JSON is."""
    key = f"{FORGOTTEN}/{proof.id}.json"
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body=proof.to_json().encode(), ContentType="application/json")
    with job.connection.transaction():
        job.connection.execute(
            "insert into forgotten.proofs (id, entity, digest, begun_at, done_at, document) values (%s, %s, %s, %s, %s, %s)"
            " on conflict (id) do nothing",
            [proof.id, proof.entity, proof.key_digest, proof.begun_at, proof.done_at, proof.to_json()],
        )
        job.connection.execute("delete from forgotten.jobs where id = %s", [job.id])
    return f"s3://{settings.s3_bucket}/{key}"


def proofs(settings: Settings) -> list[dict[str, Any]]:
    """All proofs, the oldest first."""
    with warehouse(settings) as connection:
        if connection.execute("select to_regclass('forgotten.proofs') is null").fetchone() == (True,):
            return []
        with reading("forgotten.proofs"):
            found = connection.execute("select document from forgotten.proofs order by done_at").fetchall()
            for (document,) in found:
                fit(Proof, document)
        return [document for (document,) in found]

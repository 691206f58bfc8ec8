"""Framed Avro read with the schema that it was written with, which a registry has."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline_assets.core.errors import SourceRefused, SourceUnavailable
from pipeline_assets.core.setting_values import SchemaRegistry
from pipeline_assets.ingestion.streaming.decoding import schema_registry
from pipeline_assets.ingestion.streaming.decoding.records import CheckedRecords, RecordReader, Share
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schema_of
from pipeline_assets.spec.sources import Avro
from pipeline_assets_tests.landings import Landed, stream_of, table_of
from pipeline_assets_tests.schema_registries import FIRST, FORMAT, SECOND, Registry, framed, reference, registry


@pytest.fixture
def kept() -> Iterator[Registry]:
    """A registry with the first and the second schema, under 1 and 2."""
    with registry() as kept:
        kept.schemas = {1: FIRST, 2: SECOND}
        yield kept


def read(kept: Registry, *payloads: bytes, written: Avro = FORMAT) -> CheckedRecords:
    """What a stream makes of records."""
    reader = RecordReader(replace(stream_of(), format=written), Share(), lambda number: schema_of("plant", kept.settings, number))
    return reader.read(table_of([Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)]))


def faults(found: CheckedRecords) -> dict[int, str]:
    """The faults of broken records by their places."""
    return {row.position: row.fault for row in found.checked.broken}


def test_each_record_is_read_with_the_schema_that_it_was_written_with(kept: Registry) -> None:
    """Fields that are gone are left out, new ones have their default, types widen, and neither order nor alias matters."""
    device = {**FIRST, "fields": [{"name": "device", "type": "string"}, *FIRST["fields"][1:]]}
    kept.schemas[3] = device
    found = read(kept, framed(1, FIRST), framed(2, SECOND, value=0.25), framed(3, device, device="b2"), framed(1, FIRST))

    assert faults(found) == {}
    rows = [(row["sensor"], row["kind"], row["level"], row["value"]) for row in found.checked.good.to_pylist()]
    assert rows == [("a1", None, None, 0.5), ("a1", "indoor", None, 0.25), ("b2", None, None, 0.5), ("a1", None, None, 0.5)]


def test_a_schema_is_asked_for_once(kept: Registry) -> None:
    """However many records and readers there are; an id that is unknown is asked for once a reader, as it may be made later."""
    for _ in range(2):
        read(kept, *[framed(1, FIRST)] * 20, *[framed(9, FIRST)] * 20)

    assert sorted(kept.asked) == ["/schemas/ids/1", *["/schemas/ids/9"] * 2]


def test_an_unknown_id_breaks_its_records_alone(kept: Registry) -> None:
    """It has a reason of its own; so has a schema of another kind, one that refers to others that are not there, and one that is none."""
    kept.schemas |= {5: {"type": "object"}, 6: FIRST, 7: {"type": "record"}}
    kept.about = {5: {"schemaType": "JSON"}, 6: {"references": [reference("Other", "other")]}}
    found = read(kept, framed(2, SECOND), *(framed(number, FIRST) for number in (4, 5, 6, 7)), framed(2**32 - 1, FIRST))

    assert faults(found) == dict.fromkeys(range(1, 6), "unknown schema id")
    assert found.checked.good.num_rows == 1


def test_a_schema_whose_kind_is_null_is_one_of_avro(kept: Registry) -> None:
    """As where it is left out. Regression: all records of a registry that writes it so were in quarantine."""
    kept.about = {1: {"schemaType": None, "references": None}}

    assert faults(read(kept, framed(1, FIRST))) == {}


def named(name: str, **fields: object) -> dict[str, Any]:
    """A record of Avro in the namespace of the plant."""
    return {"type": "record", "name": name, "namespace": "plant", "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


PLACE, PROBE = named("Place", room="string"), named("Probe", place="Place", made="plant.Place")
WITH_PROBE = {**FIRST, "fields": [*FIRST["fields"], {"name": "probe", "type": ["null", "plant.Probe"]}]}
WHOLE = {**FIRST, "fields": [*FIRST["fields"], {"name": "probe", "type": ["null", named("Probe", place=PLACE, made="Place")]}]}


def test_schemas_that_a_schema_refers_to_are_put_together(kept: Registry) -> None:
    """Over several steps and by more than one of them, whatever the names of subjects; each is asked for once, and found though deleted."""
    kept.schemas |= {3: WITH_PROBE}
    kept.about = {3: {"references": [reference("plant.Probe", "a/b:c", 7), reference("plant.Place", "place")]}}
    kept.subjects[("a/b:c", 7)] = {"schema": json.dumps(PROBE), "references": [reference("plant.Place", "place")]}
    kept.subjects[("place", 1)] = {"schema": json.dumps(PLACE)}
    probe = {"place": {"room": "hall"}, "made": {"room": "shop"}}
    found = read(kept, framed(3, WHOLE, probe=probe), framed(3, WHOLE, probe=None), framed(3, WHOLE, probe=probe))

    assert faults(found) == {}
    assert found.checked.good.column("value").to_pylist() == [0.5] * 3
    assert kept.asked == ["/schemas/ids/3", "/subjects/a%2Fb%3Ac/versions/7?deleted=true", "/subjects/place/versions/1?deleted=true"]


@pytest.mark.parametrize("main", [["null", "Reading", "plant.Place"], "Reading"])
def test_a_schema_may_be_no_more_than_names_of_others(kept: Registry, main: Any) -> None:
    """As for a topic of several types of events; one of another type cannot become the declared schema."""
    kept.schemas |= {3: main}
    kept.about = {3: {"references": [reference("Reading", "reading"), reference("plant.Place", "place")]}}
    kept.subjects |= {("reading", 1): {"schema": json.dumps(FIRST)}, ("place", 1): {"schema": json.dumps(PLACE)}}
    bare = framed(3, FIRST)
    payloads = [bare] if main == "Reading" else [bare[:5] + b"\2" + bare[5:], bare[:5] + b"\4\2a"]
    found = read(kept, *payloads)

    assert found.checked.good.column("value").to_pylist() == [0.5]
    assert faults(found) == dict.fromkeys(range(1, len(payloads)), "not this Avro schema")


def endless(kept: Registry) -> None:
    """Each refers to another."""
    kept.subjects |= {
        ("place", version): {"schema": json.dumps(PLACE), "references": [reference(f"p{version}", "place", version + 1)]}
        for version in range(1, 100)
    }


def many(kept: Registry) -> None:
    """One refers to more than there can be a use for."""
    kept.subjects |= {("place", version): {"schema": json.dumps(PLACE)} for version in range(2, 999)}
    kept.subjects[("place", 1)] = {"schema": json.dumps(PLACE), "references": [reference(f"p{n}", "place", n) for n in range(2, 999)]}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda kept: kept.subjects.update({("place", 1): {"schema": json.dumps(PLACE), "references": [reference("plant.Place", "place")]}}),
        lambda kept: kept.subjects.update({("place", 1): {"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"}}),
        lambda kept: kept.subjects.update({("place", 1): {"schema": json.dumps(named("Other"))}}),
        lambda kept: kept.subjects.update({("place", 1): {"schema": json.dumps(PLACE), "references": [{"name": "x"}]}}),
        lambda kept: kept.subjects.update(
            {("place", 1): {"schema": json.dumps(PLACE), "references": [reference("x", "x") | {"name": []}]}}
        ),
        lambda kept: kept.subjects.update({("place", 1): {"schema": json.dumps(PLACE), "references": 7}}),
        endless,
        many,
        lambda _: None,
    ],
    ids=["circle", "another kind", "another name", "half", "no name", "no list", "endless", "many", "gone"],
)
def test_references_that_lead_nowhere_break_their_records_alone(kept: Registry, wrong: Callable[[Registry], None]) -> None:
    """A circle, one of another kind, one without what it names, too many, and one that is not there: no schema, and the reading ends."""
    kept.schemas |= {3: {**FIRST, "fields": [*FIRST["fields"], {"name": "place", "type": "plant.Place"}]}}
    kept.about = {3: {"references": [reference("plant.Place", "place")]}}
    wrong(kept)
    found = read(kept, framed(1, FIRST), framed(3, FIRST), framed(2, SECOND))

    assert faults(found) == {1: "unknown schema id"}
    assert len(kept.asked) < 250


def test_a_record_that_cannot_become_the_declared_schema_is_broken(kept: Registry) -> None:
    """A field without a value or a default, a type that does not widen, bytes of another schema than the id says, and half a frame."""
    lacking = {**FIRST, "fields": [field for field in FIRST["fields"] if field["name"] != "value"]}
    other = {**FIRST, "fields": [{**field, "type": "string"} if field["name"] == "value" else field for field in FIRST["fields"]]}
    kept.schemas |= {3: lacking, 4: other, 5: "string"}
    payloads = [framed(3, lacking), framed(4, other, value="x"), framed(2, FIRST), framed(1, FIRST)[:4], framed(1, FIRST)[:-1], b""]
    found = read(kept, *payloads, b"\0\0\0\0\5\2a", b"\1" + framed(1, FIRST)[1:])

    assert faults(found) == dict.fromkeys(range(8), "not this Avro schema") | dict.fromkeys((3, 5, 7), "no schema id")


def test_a_registry_that_is_ill_for_a_moment_is_asked_again(kept: Registry) -> None:
    """Answers of 5xx are no answer."""
    kept.ill = 2

    assert faults(read(kept, framed(1, FIRST))) == {}
    assert kept.asked == ["/schemas/ids/1"] * 3


def test_a_registry_that_is_away_is_no_fault_of_the_records(kept: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying later may help, so the reading fails as a whole, whether nobody answers or the registry stays ill."""
    monkeypatch.setattr(schema_registry, "ATTEMPTS", 2)
    kept.ill = 9
    with pytest.raises(SourceUnavailable, match=r"schema registry plant.*503"):
        read(kept, framed(1, FIRST))
    away = SchemaRegistry(url="http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match="did not answer"):
        schema_of("plant", away, 1)


def test_a_registry_that_refuses_says_so_without_a_secret(kept: Registry) -> None:
    """A wrong password and a wrong path are errors of the settings, and break no record."""
    wrong = SchemaRegistry.model_validate({"url": kept.url, "user": "reader", "password": "hidden"})
    with pytest.raises(SourceRefused, match="answered 401") as refused:
        schema_of("plant", wrong, 1)
    with pytest.raises(SourceRefused, match="answered 404"):
        schema_of("plant", kept.settings.model_copy(update={"url": f"{kept.url}/elsewhere"}), 1)

    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("about", [{"schema": None}, {"schema": "{"}])
def test_an_answer_that_is_no_schema_is_refused(kept: Registry, about: dict[str, Any]) -> None:
    """What answers there is no schema registry."""
    kept.about = {1: about}
    with pytest.raises(SourceRefused, match="/schemas/ids/1"):
        schema_of("plant", kept.settings, 1)

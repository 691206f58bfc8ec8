"""Framed Avro read with the schema that it was written with, which a registry has."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline_assets.core.errors import SourceRefused, SourceUnavailable
from pipeline_assets.core.settings import SchemaRegistry
from pipeline_assets.ingestion.streaming.decoding import schema_registry
from pipeline_assets.ingestion.streaming.decoding.records import CheckedRecords, RecordReader, Share
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schema_of
from pipeline_assets.spec.sources import Avro
from pipeline_assets_tests.landings import Landed, stream_of, table_of
from pipeline_assets_tests.schema_registries import FIRST, FORMAT, SECOND, Registry, framed, registry


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
    """It has a reason of its own; so has a schema of another kind, one that refers to others, and one that is none."""
    kept.schemas |= {5: {"type": "object"}, 6: FIRST, 7: {"type": "record"}}
    kept.about = {5: {"schemaType": "JSON"}, 6: {"references": [{"name": "Other", "subject": "other", "version": 1}]}}
    found = read(kept, framed(2, SECOND), *(framed(number, FIRST) for number in (4, 5, 6, 7)), framed(2**32 - 1, FIRST))

    assert faults(found) == dict.fromkeys(range(1, 6), "unknown schema id")
    assert found.checked.good.num_rows == 1


def test_a_record_that_cannot_become_the_declared_schema_is_broken(kept: Registry) -> None:
    """A field without a value or a default, a type that does not widen, bytes of another schema than the id says, and half a frame."""
    lacking = {**FIRST, "fields": [field for field in FIRST["fields"] if field["name"] != "value"]}
    other = {**FIRST, "fields": [{**field, "type": "string"} if field["name"] == "value" else field for field in FIRST["fields"]]}
    kept.schemas |= {3: lacking, 4: other, 5: "string"}
    payloads = [framed(3, lacking), framed(4, other, value="x"), framed(2, FIRST), framed(1, FIRST)[:4], framed(1, FIRST)[:-1], b""]
    found = read(kept, *payloads, b"\0\0\0\0\5\2a", b"\1" + framed(1, FIRST)[1:])

    assert faults(found) == dict.fromkeys(range(8), "not this Avro schema")


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

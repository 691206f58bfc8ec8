"""The rules of streams in Protobuf: as far as the schema stands in the declaration, a contract is held against its message."""

from collections.abc import Iterator

from pipeline_assets.core.protobuf_schemas import SERVES, Kind, NotProtobufError, kind_of, messages_of
from pipeline_assets.core.rules.problems import Place, Problem, listed
from pipeline_assets.spec.sources import EventStream, Protobuf


def protobuf_problems(place: Place, stream: EventStream, written: Protobuf) -> Iterator[Problem]:
    """What is wrong with the format of a stream; nothing is asked of a registry."""
    if (written.schema is None) == (written.registry is None):
        has = "has neither a schema nor a registry" if written.schema is None else "has both a schema and a registry"
        yield place.problem("format", has, "the text of a .proto file as schema, or the registry that has it")
    if written.schema is None:
        if written.imports:
            yield place.problem("format.imports", "are set", "a schema that imports them: a registry has its own")
        return
    try:
        messages = messages_of(written.schema, written.imports)
    except NotProtobufError as error:
        yield place.problem("format.schema", f"does not compile: {error}", "a .proto file, with what it imports in `imports`")
        return
    yield from place.one_of("format.message", written.message, messages.places)
    if written.message in messages.places:
        yield from _fields(place, stream, {field.name: kind_of(field) for field in messages.descriptors[written.message].fields})


def _fields(place: Place, stream: EventStream, kinds: dict[str, Kind]) -> Iterator[Problem]:
    """Fields of the contract that the message does not have, or has as something that they cannot be."""
    for field in stream.contract.fields:
        if stream.known_at_record_time and field.name == stream.contract.known_at:
            continue
        if field.name not in kinds:
            yield from place.one_of(f"format.message lacks field '{field.name}', which", field.name, kinds)
        elif kinds[field.name] not in SERVES.get(field.type, ()):
            problem = f"is {kinds[field.name]} in the message, and {field.type} in the contract"
            expected = f"one of {listed(SERVES.get(field.type, ()))} in the message"
            yield place.problem(f"format.message: field '{field.name}'", problem, expected)

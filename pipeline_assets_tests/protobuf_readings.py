"""Readings as messages of Protobuf, bare and framed, and the schema of theirs that a registry may have."""

import struct
from datetime import datetime
from typing import Any

from pipeline_assets.core.protobuf_schemas import messages_of
from pipeline_assets.spec.sources import Protobuf
from pipeline_assets_tests.readings import reading
from pipeline_assets_tests.schema_registries import Registry, reference

READING = """
syntax = "proto3";
package plant;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "common/kinds.proto";
message Envelope {
  map<string, Reading> by_name = 1;
  message Reading {
    string sensor = 1;
    common.Kind kind = 2;
    google.protobuf.Int32Value level = 3;
    optional double value = 4;
    bool is_valid = 5;
    google.protobuf.Timestamp read_at = 6;
    google.protobuf.Timestamp sent_at = 7;
  }
  enum Other { NONE = 0; }
}
"""
KINDS = 'syntax = "proto3"; package common; enum Kind { indoor = 0; outdoor = 1; }'
IMPORTS = (("common/kinds.proto", KINDS),)
MESSAGE = "plant.Envelope.Reading"
FORMAT = Protobuf(message=MESSAGE, schema=READING, imports=IMPORTS)
FRAME = b"\0" + struct.pack(">I", 7)
PLACE = b"\4\0\0"


def message(text: str = READING, imports: tuple[tuple[str, str], ...] = IMPORTS, name: str = MESSAGE) -> Any:
    """An empty message of a schema."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(messages_of(text, imports).descriptors[name])()


def written(**changed: object) -> bytes:
    """A good reading but for what is changed; None leaves a field out."""
    found = message()
    for name, value in {**reading(), **changed}.items():
        if name not in found.DESCRIPTOR.fields_by_name or value is None:
            continue
        if isinstance(value, datetime):
            getattr(found, name).FromDatetime(value)
        elif name == "level":
            found.level.value = value
        else:
            setattr(found, name, ["indoor", "outdoor"].index(value) if isinstance(value, str) and name == "kind" else value)
    return bytes(found.SerializeToString())


def register(kept: Registry, number: int) -> None:
    """Give the schema of a reading an id; it refers to another."""
    kept.has_text(number, "PROTOBUF", READING, reference("common/kinds.proto", "kinds"))
    kept.subjects[("kinds", 1)] = {"schema": KINDS, "schemaType": "PROTOBUF"}

"""Schemas of Protobuf as texts: compiled at run time, and what their fields are in the types of contracts.

The compiler is the one in the wheel of `grpcio-tools`. It runs as a process of its own, as some of the texts come from outside.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from pipeline_assets.spec.contracts import FieldType

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto

COMPILE_SECONDS, SCHEMAS_KEPT = 30, 256
# What an import may be called: a path below the folder that all are written to.
IMPORT = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[\w.+-]{1,100}(/[\w.+-]{1,100}){0,15}")
# Those that the compiler has itself.
BUILT_IN = "google/protobuf/"
TIMESTAMP, DECIMAL = "google.protobuf.Timestamp", "confluent.type.Decimal"
# What Confluent's serializers have themselves, so that no registry names them as references.
CONFLUENT: Mapping[str, str] = {
    "confluent/type/decimal.proto": """
        syntax = "proto3"; package confluent.type;
        message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }
    """,
    "confluent/meta.proto": """
        syntax = "proto3"; package confluent; import "google/protobuf/descriptor.proto";
        message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
        extend google.protobuf.FileOptions { Meta file_meta = 1088; }
        extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
        extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
        extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
        extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }
    """,
}

Kind = Literal["integer", "number", "boolean", "string", "enum", "bytes", "timestamp", "decimal", "message", "list"]
WRAPPED: Mapping[str, Kind] = {
    **{f"google.protobuf.{name}Value": "integer" for name in ("Int32", "Int64", "UInt32", "UInt64")},
    **{f"google.protobuf.{name}Value": "number" for name in ("Float", "Double")},
    "google.protobuf.BoolValue": "boolean",
    "google.protobuf.StringValue": "string",
    "google.protobuf.BytesValue": "bytes",
}
# What the values of a field may be for a type of a contract. A float without a fraction is an integer, and says no decimal exactly.
SERVES: Mapping[FieldType, tuple[Kind, ...]] = {
    "string": ("string", "enum"),
    "integer": ("integer", "number", "decimal"),
    "number": ("number", "integer", "decimal"),
    "decimal": ("decimal", "integer", "string"),
    "boolean": ("boolean",),
    "timestamp": ("timestamp", "string"),
}


class NotProtobufError(ValueError):
    """A text that the compiler of Protobuf does not take, and what it says of it."""


@dataclass(frozen=True, kw_only=True)
class Messages:
    """The messages that a schema declares itself, nested ones among them, by their full names."""

    descriptors: Mapping[str, "Descriptor"]
    places: Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=SCHEMAS_KEPT)
def messages_of(text: str, imports: tuple[tuple[str, str], ...] = ()) -> Messages:
    """The messages of a `.proto` file with all that it imports; raises NotProtobufError.

    Their places are those that Confluent's wire format has: the position among the messages of the file, then among those within it and
    so on, as they stand in the text.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import DecodeError

    pool, root = DescriptorPool(), _root(imports)
    try:
        files = FileDescriptorSet.FromString(_compiled(root, text, imports))
        for file in files.file:
            pool.Add(file)
        (own,) = (file for file in files.file if file.name == root)
        package = f"{own.package}." if own.package else ""
        places = dict(_places(own.message_type, package, ()))
        return Messages(descriptors={name: pool.FindMessageTypeByName(name) for name in places}, places=places)
    except (DecodeError, TypeError, KeyError) as error:
        raise NotProtobufError(str(error)) from error


def _root(imports: Sequence[tuple[str, str]]) -> str:
    """The name of the file itself: one that nothing imports."""
    taken, name = {path for path, _ in imports}, "schema.proto"
    while name in taken:
        name = f"_{name}"
    return name


def _compiled(root: str, text: str, imports: Sequence[tuple[str, str]]) -> bytes:
    """All files as a FileDescriptorSet."""
    files = {path: content for path, content in imports if not path.startswith(BUILT_IN)} | {**CONFLUENT, root: text}
    with TemporaryDirectory(prefix="protobuf-") as folder:
        for path, content in files.items():
            _write(Path(folder), path, content)
        done = Path(folder) / "compiled"
        options = [f"-I{folder}", "--include_imports", f"--descriptor_set_out={done}", root]
        try:
            ran = subprocess.run(  # noqa: S603 - a program of our own environment, and no part of its arguments comes from outside
                [sys.executable, "-I", "-m", "grpc_tools.protoc", *options],
                cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise NotProtobufError(f"takes longer than {COMPILE_SECONDS} s to compile") from error
        if ran.returncode:
            raise NotProtobufError(_what_is_wrong(ran.stderr))
        return done.read_bytes()


def _write(folder: Path, path: str, content: str) -> None:
    if not IMPORT.fullmatch(path):
        raise NotProtobufError(f"imports {path!r}, which is no path below its own")
    try:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    except (FileExistsError, NotADirectoryError, IsADirectoryError, UnicodeEncodeError) as error:
        raise NotProtobufError(f"imports {path!r}, which cannot be a file beside the others") from error


def _what_is_wrong(said: str) -> str:
    """The first of the compiler's errors, without its warnings."""
    lines = [line for line in said.splitlines() if re.match(r"\S+:\d+:\d+: |\S+\.proto: ", line) and "warning:" not in line]
    return (lines or said.splitlines()[-1:] or ["the compiler ended without a word"])[0][:300]


def _places(messages: "Sequence[DescriptorProto]", within: str, above: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Full names and places; what the compiler makes of a map's entries is no message of the text."""
    for place, message in enumerate(message for message in messages if not message.options.map_entry):
        yield f"{within}{message.name}", (*above, place)
        yield from _places(message.nested_type, f"{within}{message.name}.", (*above, place))


def kind_of(field: "FieldDescriptor") -> Kind:
    """What the values of a field are."""
    if field.is_repeated:
        return "list"
    if field.message_type is not None:
        name = field.message_type.full_name
        return "timestamp" if name == TIMESTAMP else "decimal" if name == DECIMAL else WRAPPED.get(name, "message")
    kinds: Mapping[int, Kind] = {
        field.CPPTYPE_BOOL: "boolean",
        field.CPPTYPE_ENUM: "enum",
        field.CPPTYPE_FLOAT: "number",
        field.CPPTYPE_DOUBLE: "number",
        field.CPPTYPE_STRING: "bytes" if field.type == field.TYPE_BYTES else "string",
    }
    return kinds.get(field.cpp_type, "integer")

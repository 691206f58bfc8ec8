"""What is wrong with settings, in the terms of their variables; a value is shown only where it is known to be no secret."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.setting_values import MALFORMED, MALFORMED_SECRET


def problem_of(error: ValidationError, prefix: str) -> SettingsMissing | SettingsMalformed:
    """The error of all settings that are missing, or else of all that are malformed; prefix: of their variables."""
    found = error.errors()
    malformed = [each for each in found if each["type"] != "missing"]
    if not malformed:
        return SettingsMissing([_variable(each["loc"], prefix) for each in found])
    return SettingsMalformed([_malformed(_variable(each["loc"], prefix), each["type"], each) for each in malformed])


def _malformed(name: str, kind: str, error: Mapping[str, Any]) -> MalformedSetting:
    """What is wrong with a value; it is shown only where it is known to be no secret."""
    if kind in {"dict_type", "model_type", "model_attributes_type"}:
        return MalformedSetting(name, "is no mapping", _mapping(name), None)
    if kind not in {MALFORMED, MALFORMED_SECRET}:
        return MalformedSetting(name, "has the wrong form", str(error["msg"]).removeprefix("Input should be "), None)
    context, value = error["ctx"], str(error["input"])
    is_shown = kind == MALFORMED and "@" not in value
    return MalformedSetting(name, context["problem"], context["expected"], value if is_shown else None)


def no_json(error: SettingsError, prefix: str) -> MalformedSetting:
    """A mapping that was given as one variable is JSON; its values may be secret."""
    field = re.search(r'field "(\w+)"', str(error))
    name = prefix + (field.group(1).upper() if field is not None else "…")
    return MalformedSetting(name, "is no JSON", _mapping(name), None)


def _mapping(name: str) -> str:
    return f"a JSON object such as {{}}, or a variable {name}__<NAME> for each of its values"


def _variable(path: tuple[int | str, ...], prefix: str) -> str:
    return prefix + "__".join(str(part) for part in path).upper()

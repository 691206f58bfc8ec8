"""Reference data: which models of dbt keep current rows alone, who reads them, and who may not.

Such a model has one row per key, as it is now. What reads it for a time of the past takes for known then what is known now.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName


@dataclass(frozen=True, kw_only=True)
class CurrentOnly:
    """A table that has the rows as they are now alone, and the name of the one beside it that has all versions, if there is one."""

    table: AssetName
    history: str | None


@dataclass(frozen=True, kw_only=True)
class References:
    """The models of a manifest, by dbt's unique ids, as reference data and as readers of it.

    by_day: the models that are built by the day. ends: the columns that say until when a version of a row counted.
    """

    manifest: Mapping[str, Any]
    models: frozenset[str]
    by_day: frozenset[str]
    ends: frozenset[str]

    def is_current_only(self, model: str) -> bool:
        """Whether a model has the rows as they are now alone.

        Its YAML file says so (`meta`), it stands beside a `_history`, or it is a cleaned table without days and without versions.
        """
        return self._is_declared(model) or model in self._histories or self.is_without_history(model)

    def is_without_history(self, model: str) -> bool:
        """Whether a cleaned model has the rows as they are now alone, and no other has those of before."""
        if model in self._histories or self._node(model)["schema"] != names.CLEANED:
            return False
        return self._is_declared(model) or (model not in self.by_day and not self._has_versions(model))

    def history_of(self, model: str) -> str | None:
        """The name of the table beside a model that has all versions of its rows."""
        history = self._histories.get(model)
        return None if history is None else str(self._node(history)["name"])

    def current_only(self, model: str) -> tuple[str, ...]:
        """The models with current rows alone that a model reads, directly or through others: itself if it is one, else the nearest."""
        found, seen, left = set[str](), set[str](), [model]
        while left:
            one = left.pop()
            if one in seen:
                continue
            seen.add(one)
            if self.is_current_only(one):
                found.add(one)
            else:
                left += self._read_by(one)
        return tuple(sorted(found))

    def current_inputs(self, model: str) -> tuple[str, ...]:
        """The tables with current rows alone that a model reads, directly or through others, as <schema>.<name>."""
        found = {one for parent in self._read_by(model) for one in self.current_only(parent)}
        return tuple(sorted(".".join(self._table(one)) for one in found))

    def current_only_below(self, table: str) -> tuple[CurrentOnly, ...]:
        """What has current rows alone of a cleaned table and of all that it reads; nothing for a table that no model builds."""
        model = self._cleaned.get(table)
        found = self.current_only(model) if model is not None else ()
        return tuple(CurrentOnly(table=self._table(one), history=self.history_of(one)) for one in found)

    def problems(self, model: str) -> Iterator[tuple[str, str]]:
        """What a model that keeps the past reads of the present, each with what is expected instead."""
        mark = f"`{names.CURRENT_VALUE_ONLY}: true` in the meta of"
        for read in self._read_as_is(model) if self._keeps_past(model) else ():
            name, history = self._node(read)["name"], self.history_of(read)
            if history is not None:
                expected = (
                    f"{history}, joined by the macro `was_known_at`, or {mark} {self._node(model)['name']}, if it is about the present"
                )
                yield f"reads {name}, which has the rows as they are now", expected
            elif not self._is_declared(read):
                expected = f"a table {name}{names.HISTORY} of all versions, joined by the macro `was_known_at`, or {mark} {name}"
                yield f"reads {name}, which has the rows as they are now and does not say so", expected

    def _read_as_is(self, model: str) -> tuple[str, ...]:
        """The models with current rows alone that a model reads itself, or through others that keep no past either."""
        readers = [parent for parent in self._read_by(model) if self.is_current_only(parent) or not self._keeps_past(parent)]
        return tuple(sorted({found for parent in readers for found in self.current_only(parent)}))

    def _keeps_past(self, model: str) -> bool:
        """Whether rows of a cleaned model are those of their time: it is built by the day or has versions, unless it says otherwise."""
        node = self._node(model)
        is_of_time = node["config"].get("event_time") is not None or self._has_versions(model)
        return node["schema"] == names.CLEANED and is_of_time and not self._is_declared(model)

    def _has_versions(self, model: str) -> bool:
        return bool(self.ends & self._node(model)["columns"].keys())

    def _is_declared(self, model: str) -> bool:
        return self._node(model)["config"].get("meta", {}).get(names.CURRENT_VALUE_ONLY) is True

    def _read_by(self, model: str) -> list[str]:
        return [parent for parent in self.manifest["parent_map"].get(model, ()) if parent in self.models]

    @cached_property
    def _cleaned(self) -> dict[str, str]:
        return {self._node(model)["name"]: model for model in self.models if self._node(model)["schema"] == names.CLEANED}

    @cached_property
    def _histories(self) -> dict[str, str]:
        """By model that stands beside a table with all versions of its rows, that table."""
        beside = {model: self._cleaned.get(f"{name}{names.HISTORY}") for name, model in self._cleaned.items()}
        return {model: history for model, history in beside.items() if history is not None and self._has_versions(history)}

    def _table(self, model: str) -> AssetName:
        return self._node(model)["schema"], self._node(model)["name"]

    def _node(self, model: str) -> Mapping[str, Any]:
        node: Mapping[str, Any] = self.manifest["nodes"][model]
        return node

"""Findings: what came of holding served vectors against the lake, kept in the online store, the newest of them and their course."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import psycopg

from pipeline_assets.core.connections import online
from pipeline_assets.core.plots import BLUE, GREY, WIDE, canvas, png
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.online.recomputed import ServedParity

INSERT = "insert into online.parity (model, definition, checked, pending, unclear, differing) values (%s, %s, %s, %s, %s, %s)"
NEWEST = """
    select checked_at, checked, pending, unclear, differing from online.parity
    where model = %s and definition = %s order by id desc limit %s
"""
KEPT_FOR = "400 days"
SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A comparison: when it was made, how many vectors were compared, and of each feature that differed in how many."""

    checked_at: datetime
    checked: int
    pending: int
    unclear: Mapping[str, int]
    differing: Mapping[str, int]


def write_finding(settings: OnlineSettings, found: "ServedParity") -> None:
    """Keeps a finding."""
    counts = (json.dumps(found.unclear), json.dumps(found.differing))
    with online(settings) as connection:
        connection.execute(INSERT, (found.model, found.definition, found.checked, found.pending, *counts))
        connection.execute("delete from online.parity where checked_at < now() - %s::interval", (KEPT_FOR,))


def findings(settings: OnlineSettings, model: Model, most: int = SHOWN) -> Sequence[Finding]:
    """The newest findings about a model as it is declared now, newest first; none where nothing was ever compared."""
    with online(settings) as connection:
        return _found(connection, model, most)


def last_comparison(settings: OnlineSettings, model: Model) -> Finding | None:
    """The newest finding that compared any vector of a model as it is declared now."""
    return next((one for one in findings(settings, model) if one.checked), None)


def draw_findings(found: Sequence[Finding]) -> bytes:
    """How many vectors were compared, and how many values differed, over time, as a PNG image; `found` is newest first, not empty."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = canvas(WIDE, "Served vectors held against the lake", "UTC", "")
    at = np.array([one.checked_at.replace(tzinfo=None) for one in reversed(found)], "datetime64[us]")
    checked = [one.checked for one in reversed(found)]
    differing = [sum(one.differing.values()) for one in reversed(found)]
    axes.plot(at, checked, color=GREY, marker=".", clip_on=False, label="vectors compared")
    axes.plot(at, differing, color=BLUE, marker=".", clip_on=False, label="values that differ")
    axes.set_ylim(bottom=0)
    # A single comparison would be drawn among years.
    axes.set_xlim(min(at[0], at[-1] - np.timedelta64(2, "h")), at[-1])
    locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.legend(fontsize=8, frameon=False)
    return png(figure)


def _found(connection: psycopg.Connection, model: Model, most: int) -> Sequence[Finding]:
    if connection.execute("select to_regclass('online.parity') is null").fetchone() == (True,):
        return ()
    rows = connection.execute(NEWEST, (model.name, definition_hash(model), most))
    return tuple(
        Finding(checked_at=at, checked=checked, pending=pending, unclear=unclear, differing=differing)
        for at, checked, pending, unclear, differing in rows
    )

"""Live predictions of the demo: the service is asked about the streamed days, and what it answers is computed again from the lake."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import AccessSettings, ServiceAddress, Settings, read_part
from pipeline_assets.local_stack.demo_online import asked_on, at_time
from pipeline_assets.local_stack.worlds import Days, Demo
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.offline import silent
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.key_file import change_keys
from pipeline_assets.serving.realtime.access.keys import Key, make_key, utc_now
from pipeline_assets.serving.realtime.client import Client, Prediction
from pipeline_assets.serving.realtime.package import load_package
from pipeline_assets.spec.models import Model

MOST, AT_ONCE, KEY_NAME = 1_000, 200, "demo"
KEY_LIVES = timedelta(hours=1)
PATIENCE_SECONDS, POLL_SECONDS = 60.0, 0.25


class NotServing(PipelineError):
    """The prediction service does not serve the version that is live."""

    def __init__(self, model: str, version: int, seconds: float) -> None:
        self.model, self.version = model, version
        super().__init__(
            f"The prediction service has not served version {version} of {model} within {seconds:.0f} s. See `pipeline logs predictions`."
        )


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Live predictions of a model: how many, by which version, how many of them differ in any bit from those of the lake's features.

    why: the features of one of them that did most to it, with how much each did; the prediction is `example`.
    """

    model: str
    version: int
    predictions: int
    differing: int
    seconds: float
    example: str
    answer: float
    why: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """In the form of `demo.json`."""
        return asdict(self)


def predict_live(settings: Settings, project: Project, demo: Demo, at: Mapping[str, int], versions: Mapping[str, int]) -> list[Predicted]:
    """Asks the service about what was asked on the streamed days, as of a time (in µs, by model), and computes the answers again.

    versions: by model the one that is to answer. Raises NotServing. The key that is made for it ends by itself.
    """
    access = read_part(AccessSettings, settings.home)
    key, text = make_key(KEY_NAME, [Role.PREDICT, Role.READ], now=utc_now(), lives=KEY_LIVES)
    change_keys(access.keys_file, lambda keys: (_with(keys, key), None))
    with Client(read_part(ServiceAddress, settings.home).serve_url, text) as client:
        return [
            _predicted(client, settings, project, _Asked(project.model(name), versions[name], demo.streamed, us)) for name, us in at.items()
        ]


def _with(keys: Mapping[str, Key], key: Key) -> dict[str, Key]:
    """The keys with a new one in the place of its forerunners, which have ended or soon will."""
    return {**{number: one for number, one in keys.items() if one.name != key.name}, key.id: key}


class _Asked(NamedTuple):
    """What a model is asked about: which version is to answer, what was asked on which days, as of when (µs)."""

    model: Model
    version: int
    days: Days
    us: int


def _predicted(client: Client, settings: Settings, project: Project, asked: _Asked) -> Predicted:
    model, version = asked.model, asked.version
    _wait_for(client, model.name, version)
    rows = asked_on(settings, model, asked.days).slice(0, MOST)
    spine = at_time(rows, np.full(rows.num_rows, asked.us, np.int64))
    began = time.monotonic()
    answers = [one for part in _parts(spine) for one in client.predict(model.name, part)]
    seconds = time.monotonic() - began
    past = offline.historical_features(settings, project, model.name, spine, name="what was asked of the service", on_notice=silent)
    _, scorer, _ = load_package(settings, model, version)
    scores = scorer.score(past)
    classes = scorer.contract.classes
    differing = sum(
        one.model_version != version or _numbers(one, classes) != tuple(np.atleast_1d(score).tolist())
        for one, score in zip(answers, scores, strict=True)
    )
    why = client.explain(model.name, spine.slice(0, 1).to_pylist())[0]
    moved = {} if why.contributions is None else dict(why.contributions.values)
    return Predicted(
        model=model.name,
        version=version,
        predictions=len(answers),
        differing=differing,
        seconds=round(seconds, 3),
        example=answers[0].id,
        answer=_numbers(answers[0], classes)[0],
        why=dict(sorted(moved.items(), key=lambda one: -abs(one[1]))[:3]),
    )


def _wait_for(client: Client, model: str, version: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.model(model).version != version:
        if time.monotonic() > deadline:
            raise NotServing(model, version, PATIENCE_SECONDS)
        time.sleep(POLL_SECONDS)


def _parts(spine: pa.Table) -> Sequence[list[dict[str, Any]]]:
    return [spine.slice(first, AT_ONCE).to_pylist() for first in range(0, spine.num_rows, AT_ONCE)]


def _numbers(answer: Prediction, classes: Sequence[str]) -> tuple[float, ...]:
    if answer.scores is not None:
        return tuple(answer.scores[one] for one in classes)
    found = answer.score if answer.score is not None else answer.value
    return () if found is None else (found,)

"""One process of the prediction service: its app, made without what no prediction needs."""

import ctypes
import gc
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from starlette.types import ASGIApp

# How long a thread may hold up the others: by Python's own 5 ms an answer would wait for each that is busy, such as that of the log.
SWITCH_SECONDS = 0.0005
# When the garbage collector looks at young, older and all objects. All of them by Python's own thresholds held up answers by 0.15 s.
COLLECTED_AFTER = (5_000, 20, 100)
# What Arrow and XGBoost load where they find it: two seconds and 100 MB a process.
NOT_NEEDED = frozenset({"pandas", "sklearn"})
# Of glibc: how many heaps the threads of a process share (M_ARENA_MAX). By its own rule eight a core, each of which keeps what it once had.
ARENA_MAX, ARENAS = -8, 2


class Without(MetaPathFinder):
    """Finds nothing, and has some packages count as not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> "ModuleSpec | None":
        """None; raises ModuleNotFoundError for a package that is not needed."""
        del path, target
        if name.partition(".")[0] in NOT_NEEDED:
            raise ModuleNotFoundError(f"{name} is not needed in this process", name=name)
        return None


def share_heaps() -> None:
    """Has the threads of this process share a few heaps: what one gives back is there for all. Elsewhere than on glibc it does nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, ARENAS)


def app() -> "ASGIApp":
    """The app of this process, from the settings and declarations."""
    share_heaps()
    sys.meta_path.insert(0, Without())
    sys.setswitchinterval(SWITCH_SECONDS)
    import xgboost  # noqa: F401 - the first package would load it, after what is below

    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.foreign import log_safely
    from pipeline_assets.core.settings import AccessSettings, PredictionSettings, ServeSettings, home_folder, read_own, read_part
    from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
    from pipeline_assets.processing.cleaning.dbt import project_folder
    from pipeline_assets.processing.cleaning.manifest import read_manifest
    from pipeline_assets.serving.realtime.access.opened import open_access
    from pipeline_assets.serving.realtime.service.app import Service, build_app

    log_safely()
    project, settings = load_project(), read_part(PredictionSettings, home_folder())
    feeds = feeds_of(project, read_manifest(project_folder()))
    service = Service(settings=settings, project=project, feeds=feeds, serve=read_own(ServeSettings), folder=settings.home / "serve")
    made = build_app(service, open_access(read_part(AccessSettings, home_folder())))
    # What is there by now stays, a quarter of a million objects, and so do most of those that come: what was answered last.
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    return made

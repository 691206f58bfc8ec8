"""The rules of the house: who may import whom, who may import Dagster, who reads the environment, how a room looks."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ROOT / "pipeline_assets"
ROOMS = (
    "ingestion/sources", "ingestion/batch", "ingestion/streaming",
    "processing/lake", "processing/cleaning", "processing/features",
    "model_lifecycle/feature_store", "model_lifecycle/training", "model_lifecycle/registry",
    "serving/batch", "serving/realtime", "serving/monitoring",
)  # fmt: skip
# Staged partitions are no room: both ways of ingestion write them, and the lake reads them.
STEPS = (*ROOMS[:1], "ingestion/staging", *ROOMS[1:])
PACKAGES = tuple(f"pipeline_assets.{step.replace('/', '.')}" for step in STEPS)
WIRING = {"assets.py", "sensors.py", "definitions.py", "jobs.py", "resources.py", "handover.py", "webserver.py", "pooled_storage.py"}
MODULES = sorted(PRODUCT.rglob("*.py"))


def _imports(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(module: str) -> int | None:
    """The position of the step, a room or the staging, that a module name belongs to."""
    return next((position for position, package in enumerate(PACKAGES) if module == package or module.startswith(f"{package}.")), None)


def _relative(file: Path) -> str:
    return str(file.relative_to(PRODUCT))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_the_same_anatomy(room: str) -> None:
    """A room has a docstring that names input and output, and a thin `assets.py` with `defs(project)`."""
    doc = ast.get_docstring(ast.parse((PRODUCT / room / "__init__.py").read_text())) or ""
    wiring = ast.parse((PRODUCT / room / "assets.py").read_text())
    entrances = [node for node in wiring.body if isinstance(node, ast.FunctionDef) and node.name == "defs"]

    assert "Input:" in doc
    assert "Output:" in doc
    assert [argument.arg for argument in entrances[0].args.args] == ["project"]


@pytest.mark.parametrize("file", sorted((PRODUCT / "core").glob("*.py")), ids=_relative)
def test_core_imports_no_room(file: Path) -> None:
    """Machinery without a room depends on the vocabulary, and on itself."""
    allowed = ("pipeline_assets.spec", "pipeline_assets.core")
    assert {module for module in _imports(file) if module.startswith("pipeline_assets.") and not module.startswith(allowed)} == set()


@pytest.mark.parametrize(
    "file", [file for file in MODULES if _room("pipeline_assets." + _relative(file)[:-3].replace("/", ".")) is not None], ids=_relative
)
def test_a_room_imports_only_itself_and_plain_modules_of_earlier_rooms(file: Path) -> None:
    """Imports go with the arrows of the diagram, and wiring is never imported by a room."""
    own = _room("pipeline_assets." + _relative(file)[:-3].replace("/", "."))
    assert own is not None
    others = {module for module in _imports(file) if module.startswith("pipeline_assets.")}
    reached = {module: _room(module) for module in others}
    wiring = {module for module, room in reached.items() if room not in {None, own} and module.split(".")[-1] in {"assets", "sensors"}}
    outside = {
        module
        for module, room in reached.items()
        if room is None and not module.startswith(("pipeline_assets.spec", "pipeline_assets.core"))
    }

    assert {module: room for module, room in reached.items() if room is not None and room > own} == {}
    assert wiring == set()
    assert {module for module in outside if module.count(".") > 1} == set()


@pytest.mark.parametrize("file", [file for file in MODULES if file.name not in WIRING], ids=_relative)
def test_only_wiring_imports_dagster(file: Path) -> None:
    """A plain module works, and is tested, without Dagster."""
    assert [module for module in _imports(file) if module.split(".")[0].startswith("dagster")] == []


@pytest.mark.parametrize("file", sorted((PRODUCT / "spec").glob("*.py")), ids=_relative)
def test_the_vocabulary_needs_the_standard_library_only(file: Path) -> None:
    """`spec` imports itself and the standard library."""
    allowed = {"collections", "dataclasses", "datetime", "decimal", "typing"}
    assert {module.split(".")[0] for module in _imports(file) if not module.startswith("pipeline_assets.spec")} <= allowed


@pytest.mark.parametrize("file", sorted((PRODUCT / "use_cases").rglob("*.py")), ids=_relative)
def test_declarations_import_the_vocabulary_only(file: Path) -> None:
    """A use case imports `spec`, itself and the standard library's dates and decimals."""
    own, values = (
        ("pipeline_assets.spec", "pipeline_assets.use_cases"),
        {f"datetime.{name}" for name in ("UTC", "date", "datetime", "timedelta")},
    )
    assert {module for module in _imports(file) if not module.startswith(own)} <= {"datetime", *values, "decimal", "decimal.Decimal"}


@pytest.mark.parametrize("file", [file for file in MODULES if _relative(file) != "core/settings.py"], ids=_relative)
def test_the_environment_is_read_in_one_place(file: Path) -> None:
    """Only `core/settings.py` reads environment variables."""
    reads = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    ]
    assert reads == []


@pytest.mark.parametrize("file", MODULES, ids=_relative)
def test_the_product_never_imports_the_simulator_or_the_tests(file: Path) -> None:
    """The outside world is outside: a user deletes the simulator and everything still loads."""
    assert {module.split(".")[0] for module in _imports(file)} & {"simulator", "pipeline_assets_tests"} == set()


@pytest.mark.parametrize("file", MODULES, ids=_relative)
def test_nothing_is_unpickled(file: Path) -> None:
    """No module loads a pickle or a model through a loader that would."""
    assert {module.split(".")[0] for module in _imports(file)} & {"pickle", "cloudpickle", "joblib", "dill"} == set()
    assert "pyfunc.load_model" not in file.read_text()


# What a prediction service and a worker of streams start with; both must not wait for, or need, what only runs of Dagster use.
LIGHT = (
    "pipeline_assets.use_cases.nyc_flights",
    "pipeline_assets.core.connections",
    "pipeline_assets.core.declarations",
    "pipeline_assets.processing.features.view",
    "pipeline_assets.model_lifecycle.training.scorer",
    "pipeline_assets.ingestion.streaming.typed.rows",
    "pipeline_assets.model_lifecycle.feature_store.online.keeper",
    "pipeline_assets.serving.realtime.access.opened",
    "pipeline_assets.serving.realtime.log.writer",
    "pipeline_assets.serving.realtime.access.page",
    "pipeline_assets.serving.realtime.client",
    "pipeline_assets.serving.realtime.log.events",
    "pipeline_assets.serving.realtime.log.feedback",
    "pipeline_assets.serving.realtime.service.app",
)
HEAVY = ("dagster", "mlflow", "pandas", "dbt", "evidently", "sklearn", "matplotlib", "opentelemetry")


@pytest.mark.parametrize("module", LIGHT)
def test_what_serves_and_streams_starts_without_dagster(module: str) -> None:
    """Importing the module loads none of the libraries that only runs need."""
    probe = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def test_a_process_of_the_service_starts_without_what_no_prediction_needs() -> None:
    """A client of HTTP and tokens are for identity providers, lake, frames and notes for runs: together a second and 60 MB."""
    unused = ("httpx", "jwt", "polars", "pyiceberg", "rich")
    probe = f"import sys, pipeline_assets.serving.realtime.service.app; print([name for name in {unused!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def test_the_door_of_events_loads_no_database_before_there_are_some() -> None:
    """A process of the service knows each stream that takes events over HTTP, and reads records by one: 40 MB for who never gets any."""
    imports = "from pipeline_assets.core.declarations import load_project; from pipeline_assets.serving.realtime.log.events import Door"
    probe = f"import sys; {imports}; door = Door(load_project(), None); print(len(door._checkers) > 0, 'duckdb' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "True False"


# What only runs connect and compute with: no process that loads the code location, as each one of Dagster's does, waits for it.
AT_RUNS = (
    "adbc_driver_postgresql", "boto3", "confluent_kafka", "evidently", "fastavro", "grpc_tools.protoc", "httpx", "matplotlib", "mlflow",
    "numpy", "pandas", "polars", "psycopg", "pyarrow", "pyiceberg", "sklearn", "stamina", "xgboost",
)  # fmt: skip


def test_the_code_location_loads_without_what_only_runs_use() -> None:
    """The modules that read, compute and write are imported where an asset, a check or a sensor runs."""
    probe = f"import sys, pipeline_assets.definitions; print([name for name in {AT_RUNS!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("file", [file for file in MODULES if "use_cases" not in file.parts], ids=_relative)
def test_no_room_knows_a_use_case(file: Path) -> None:
    """Outside of `use_cases/` no module names the flights, their models, databases or services."""
    assert re.findall(r"nyc_flights|flight_delay|arrival_delay|airline_ops", file.read_text()) == []


@pytest.mark.parametrize("file", [file for file in MODULES if _relative(file) != "core/names.py"], ids=_relative)
def test_names_of_assets_are_made_in_one_place(file: Path) -> None:
    """An asset key is made from a name of `core/names.py`, never from a text."""
    made = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"dg.AssetKey", "AssetKey"}
        and not (isinstance(node.args[0], ast.Call) and ast.unparse(node.args[0].func) == "list")
    ]  # fmt: skip

    assert made == []


def _bodies() -> list[tuple[int, str]]:
    """The lines of each function's body, and where it is."""
    found = []
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                found.append((lines, f"{_relative(file)}:{node.lineno} {node.name}"))
    return sorted(found)


def test_functions_can_be_read_in_one_look() -> None:
    """Nine in ten bodies have at most 20 lines, none more than 60."""
    bodies = _bodies()

    assert [place for lines, place in bodies if lines > 60] == []
    assert bodies[int(0.9 * len(bodies))][0] <= 20


@pytest.mark.parametrize("file", MODULES, ids=_relative)
def test_a_module_can_be_read_in_one_sitting(file: Path) -> None:
    """No module has more than 400 lines."""
    assert len(file.read_text().splitlines()) <= 400

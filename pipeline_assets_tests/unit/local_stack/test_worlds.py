"""Outside worlds: how the stack reads them, and what it makes of them."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.settings import ROOT, StackSettings
from pipeline_assets.local_stack import simulator
from pipeline_assets.local_stack.demo_command import chosen_demo
from pipeline_assets.local_stack.inventory import described
from pipeline_assets.local_stack.plan import POSTGRES, Plan
from pipeline_assets.local_stack.settings import make_plan
from pipeline_assets.local_stack.worlds import WorldMalformed, read_worlds
from pipeline_assets_tests.stack_services import FREE

LIBRARY = """
[databases.library_ops]
fill = ["simulator.library.database", "--first", "2020-01-01"]

[services.opening_hours]
run = ["simulator.library.hours", "--port", "{port}", "--api-key-file", "{api_key_file}"]
port = 8090
health = "/up"
"""


def write_world(root: Path, name: str, text: str) -> None:
    """A world in a project."""
    folder = root / "simulator" / name
    folder.mkdir(parents=True)
    (folder / "world.toml").write_text(text)


def plan(root: Path, home: Path) -> Plan:
    """The plan of the stack of a project, on free ports."""
    services = described(read_worlds(root))
    ports = {name: 0 for service in services.values() for name in service.ports}
    return make_plan(services.values(), StackSettings(ports=ports, given={}), root, home)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose simulators are those of this one, and a library."""
    shutil.copytree(ROOT / "simulator", tmp_path / "simulator", ignore=shutil.ignore_patterns("__pycache__"))
    write_world(tmp_path, "library", LIBRARY)
    return tmp_path


def test_worlds_stand_side_by_side(root: Path) -> None:
    """A folder with a `world.toml` is all that a second world needs: its databases, its services and their settings are there."""
    worlds = read_worlds(root)
    services = described(worlds)
    made = plan(root, root)
    address = f"127.0.0.1:{made.ports[POSTGRES]}/library_ops"

    assert "library" in [world.name for world in worlds]
    assert services["opening_hours"].ports == {"opening_hours": 8090}
    assert made.settings["PIPELINE_OWNERS__LIBRARY_OPS"] == f"postgresql://library_ops:{made.secrets['library_ops']}@{address}"
    reads = f"postgresql://library_ops_batches:{made.secrets['library_ops_batches']}@{address}"
    assert made.settings["PIPELINE_DATABASES__LIBRARY_OPS"] == reads
    assert made.settings["PIPELINE_REPLICATION__LIBRARY_OPS"].startswith("postgresql://library_ops_replication:")
    assert made.settings["PIPELINE_SERVICES__OPENING_HOURS__URL"] == f"http://127.0.0.1:{made.ports['opening_hours']}"
    assert made.settings["PIPELINE_SERVICES__OPENING_HOURS__API_KEY"] == made.secrets["opening_hours_api_key"]


def test_of_a_world_whose_folder_was_deleted_nothing_is_started(root: Path) -> None:
    """Its services, databases and settings go with the folder; the other worlds stay."""
    for folder in (root / "simulator").iterdir():
        if folder.is_dir() and folder.name != "library":
            shutil.rmtree(folder)
    services = described(read_worlds(root))
    made = plan(root, root)

    assert {"weather"} & services.keys() == set()
    assert [name for name in made.settings if name.startswith("PIPELINE_DATABASES__")] == ["PIPELINE_DATABASES__LIBRARY_OPS"]


def test_a_service_is_a_program_with_its_own_port_and_key(root: Path) -> None:
    """What stands in braces in its arguments is replaced; the key is in a file that only its owner can read."""
    made = plan(root, root)
    service = described(read_worlds(root))["opening_hours"].build(made)
    service.prepare()
    key = root / "opening_hours" / "api_key"

    port = str(made.ports["opening_hours"])
    assert service.command == (sys.executable, "-m", "simulator.library.hours", "--port", port, "--api-key-file", str(key))
    assert key.read_text() == made.secrets["opening_hours_api_key"]
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_database_that_exists_elsewhere_is_not_filled(root: Path) -> None:
    """The programs that fill databases are those of databases that the stack has itself."""
    worlds = [world for world in read_worlds(root) if world.name == "library"]

    assert simulator.databases_to_fill(worlds, {}) == {"library_ops": ("simulator.library.database", "--first", "2020-01-01")}
    assert simulator.databases_to_fill(worlds, {"PIPELINE_DATABASES__LIBRARY_OPS": "postgresql://elsewhere/library"}) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[services", "the file is no TOML"),
        ("[services.hours]\nport = 8090\nhealth = '/up'", "services.hours.run is refused: Field required"),
        ("[services.hours]\nrun = []\nport = 8090\nhealth = '/up'", "services.hours.run is refused: Tuple should have at least 1 item"),
        ("[services.hours]\nrun = ['x']\nport = 99999\nhealth = '/up'", "services.hours.port is refused: is no such number"),
        ("[databases.Hours]", "databases.Hours.[key] is refused: String should match pattern"),
        ("[data]", "data is refused: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_world_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    """File, field and problem are named."""
    write_world(tmp_path, "library", text)
    with pytest.raises(WorldMalformed) as failure:
        read_worlds(tmp_path)

    assert f"World in {tmp_path / 'simulator' / 'library' / 'world.toml'}: {problem}" in str(failure.value)


def test_two_worlds_share_no_name(root: Path) -> None:
    """The second one is refused, with the first."""
    write_world(root, "museum", "[databases.library_ops]")
    with pytest.raises(WorldMalformed, match="'library_ops' is also declared in world 'library'"):
        read_worlds(root)


@pytest.mark.parametrize("declared", ["[databases.catalog]", "[services.mlflow]\nrun = ['x']\nport = 1\nhealth = '/'"])
def test_a_world_takes_no_name_of_the_platform(tmp_path: Path, declared: str) -> None:
    """A source is no database or service of the platform itself."""
    write_world(tmp_path, "library", declared)
    with pytest.raises(UserInputError, match="which is a service or database of the platform"):
        described(read_worlds(tmp_path))


def test_the_port_of_no_service_is_refused(root: Path) -> None:
    """A misspelt port moves nothing, and is named with those that there are."""
    services = described(read_worlds(root)).values()
    with pytest.raises(UnknownName, match=r"Unknown port 'PIPELINE_PORTS__KAFAK'.*Known: .*PIPELINE_PORTS__KAFKA_CONTROLLER"):
        make_plan(services, StackSettings(ports={**FREE, "kafak": 1}, given={}), root, root)


def test_the_demo_is_that_of_a_world() -> None:
    """The only demo needs no name; a name that is not there is reported with those that are."""
    world, demo = chosen_demo(None)

    assert (world.name, demo.history.last < demo.streamed.first) == (demo.use_case, True)
    with pytest.raises(UnknownName, match=f"Unknown demo 'nothing'. Known: {world.name}"):
        chosen_demo("nothing")

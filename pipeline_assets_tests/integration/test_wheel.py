"""The wheel holds all that runs: installed into an environment of its own, away from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pipeline_assets.core.settings import ROOT

ASSETS = """
import json
import pipeline_assets
from pipeline_assets.definitions import defs
keys = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
print(json.dumps({"package": pipeline_assets.__file__, "keys": keys}))
"""


def run(*command: str | Path, folder: Path) -> str:
    """The output of a command in a folder, without the settings of this process."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment in which the wheel is installed; its other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    (packages(folder / "venv") / "others.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = folder.glob("*.whl")
    run(folder / "venv" / "bin" / "pip", "install", "--no-deps", "--no-index", "--ignore-installed", wheel, folder=folder)
    (folder / "venv" / "bin" / "dbt").symlink_to(Path(sys.executable).with_name("dbt"))
    return folder / "venv"


def packages(environment: Path) -> Path:
    """The folder of packages of a virtual environment."""
    return next((environment / "lib").glob("python3.*")) / "site-packages"


def files(environment: Path) -> set[Path]:
    """What is installed of the product, without compiled code."""
    return {path for path in (packages(environment) / "pipeline_assets").rglob("*") if "__pycache__" not in path.parts}


def test_an_installed_product_loads_its_code_location_anywhere(environment: Path, tmp_path: Path) -> None:
    """Dbt project and use cases are those of the wheel, the graph is that of the checkout, and only the home folder is written to."""
    before = files(environment)
    found = json.loads(run(environment / "bin" / "python", "-c", ASSETS, folder=tmp_path))
    expected = json.loads(run(sys.executable, "-c", ASSETS, folder=ROOT))

    assert found["package"] == str(packages(environment) / "pipeline_assets" / "__init__.py")
    assert found["keys"] == expected["keys"]
    assert files(environment) == before
    assert (tmp_path / ".pipeline" / "dbt" / "target" / "manifest.json").is_file()


def test_the_wheel_has_no_simulator_and_nothing_made_on_this_machine(environment: Path) -> None:
    """Worlds are for a checkout; dbt's target, its logs and settings with secrets are in no wheel."""
    names = {path.name for path in files(environment)}

    assert {"workspace.yaml", "dagster.yaml", "dbt_project.yml", "jars.json"} <= names
    assert names & {"target", "logs", ".env", "stack.env", "simulator", "world.toml"} == set()


def test_the_command_of_an_installed_product_knows_the_services_of_the_platform(environment: Path, tmp_path: Path) -> None:
    """The stack is found without a checkout, in a home folder below the current one."""
    script = "import json; from pipeline_assets.local_stack import stack; from pipeline_assets.core.settings import home_folder; "
    script += "print(json.dumps([[state.name, state.state] for state in stack.status(home_folder())]))"
    shown = dict(json.loads(run(environment / "bin" / "python", "-c", script, folder=tmp_path)))

    assert set(shown.values()) == {"stopped"}
    assert {
        "postgres",
        "s3",
        "kafka",
        "connect",
        "dagster-code",
        "mlflow",
        "dagster",
        "dagster-daemon",
        "online-worker",
        "predictions",
    } == shown.keys()
    assert "Start all services" in run(environment / "bin" / "pipeline", "up", "--help", folder=tmp_path)

"""The Dockerfile, replayed without Docker: its COPY, RUN and ENV lines in their order, into a folder that stands for the image.

What is replaced is its base (this environment's Python, and a virtual environment for the system's) and the 3 GB of the lock's packages,
which `make env` has installed by the same step: they are checked against the lock, and lent to the replay.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.airflow_env import ROOT
from tests.dags.test_dag_integrity import DAG_IDS

DOCKER = ROOT / "docker"
SCRIPT = "docker/install.sh"
STEPS = ["uv", "dependencies", "package"]
# Says where the package and the DAGs come from, and what of them cannot be imported.
PROGRAM = """
import json, airflow.configuration, wat2mds
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
print(json.dumps({"package": wat2mds.__file__, "dags": {name: dag.fileloc for name, dag in bag.dags.items()}, "errors": bag.import_errors}))
"""


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest of its line), continued lines joined."""
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#"))
    return [
        (name, " ".join(rest.split())) for name, rest in re.findall(r"^([A-Z]+) (.+)$", re.sub(r"\\\n", " ", text), re.MULTILINE)
    ]


def steps(text: str) -> list[str]:
    """The script's steps that a text calls, in its order."""
    return re.findall(rf"^\s*(?:RUN )?{re.escape(SCRIPT)} (\w+)", text, re.MULTILINE)


@dataclass
class Image:
    """``root`` stands for /; ``python`` is its Python."""

    root: Path
    python: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path("/")

    def inside(self, path: str) -> Path:
        """A path of the image, here."""
        return self.root / (self.folder / path).relative_to("/")

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=self.inside("."), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def copy(self, sources: list[str], to: str) -> None:
        """As COPY does: into a folder where ``to`` ends so, else under that name. Only what git has, as a clean clone's."""
        for source in sources:
            listed = subprocess.run(
                ["git", "ls-files", "-z", source], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            files = listed.strip("\0").split("\0")
            assert files != [""], f"COPY {source}: git has no such file"
            for file in files:
                place = self.inside(to)
                if (ROOT / source).is_dir():
                    place /= Path(file).relative_to(source)
                elif to.endswith("/"):
                    place /= Path(file).name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, place)

    def set(self, assignments: str) -> None:
        for name, value in (word.split("=", 1) for word in shlex.split(assignments)):
            self.environment[name] = str(self.inside(value)) if value.startswith("/") else value


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image as its Dockerfile leaves it."""
    base = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "system"], check=True)
    python = base / "system" / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(found.stdout.strip()) / "lent.pth").write_text(sysconfig.get_path("purelib"))
    airflow = python.parent / "airflow"
    airflow.write_text('#!/bin/sh\nexec python -m airflow "$@"\n')
    airflow.chmod(0o755)
    path = f"{python.parent}:/usr/bin:/bin"
    image = Image(
        base / "root", python, {"PATH": path, "HOME": str(base / "home"), "UV_OFFLINE": "1", "UV_CACHE_DIR": str(base / "uv")}
    )
    for name, rest in instructions():
        if name == "WORKDIR":
            image.folder = Path(rest)
            image.inside(".").mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            *sources, to = rest.split()
            image.copy(sources, to)
        elif name == "ENV":
            image.set(rest)
        elif name == "RUN" and steps(rest) == ["package"]:
            image.run(*rest.split())
    return image


def test_the_dockerfile_and_make_install_by_the_same_steps() -> None:
    assert steps((DOCKER / "Dockerfile").read_text("utf-8")) == STEPS
    assert steps((ROOT / "Makefile").read_text("utf-8")) == STEPS
    installing = re.compile(r"\b(pip|uv|apt-get|curl|wget)\b")
    own = [rest for name, rest in instructions() if name == "RUN" and not steps(rest) and installing.search(rest)]
    assert own == [], f"put it into {SCRIPT}, which the tests run"
    assert not installing.search(re.sub(rf"{SCRIPT} uv|\$\(UV\)|\$\(BIN\)/uv", "", _recipe("env"))), f"put it into {SCRIPT}"


def _recipe(target: str) -> str:
    """What `make` would run for a target in a clone without an environment, but for the venv itself."""
    command = ["make", "--dry-run", "--always-make", "VENV=.not-there", "FIND_LINKS=", target]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if " -m venv " not in line and "config list" not in line)


def test_this_environment_is_what_the_step_makes_of_the_lock() -> None:
    command = [str(ROOT / SCRIPT), "dependencies", sys.executable, "--dry-run", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Would make no changes" in done.stderr, f"run `make env`:\n{done.stderr}"


def test_layers_that_change_seldom_come_first() -> None:
    """A changed source file installs no package anew."""
    order = [rest for name, rest in instructions() if name in ("COPY", "RUN")]
    lock, dependencies = order.index("requirements.txt ./"), order.index(f"{SCRIPT} dependencies")
    assert lock < dependencies < order.index("include include") < order.index(f"{SCRIPT} package")
    assert {rest.split()[0] for rest in order[: dependencies + 1]} == {"useradd", SCRIPT, "requirements.txt"}


def test_it_ends_as_nobody_special() -> None:
    kinds = [name for name, _ in instructions()]
    user = dict(instructions())["USER"]
    assert user.isdecimal(), "a platform that forbids root asks for a number"
    assert int(user) > 0
    assert "RUN" not in kinds[kinds.index("USER") :]


def test_the_build_is_sent_what_is_copied_and_no_more() -> None:
    allowed = re.findall(r"^!(.+)$", (DOCKER / "Dockerfile.dockerignore").read_text("utf-8"), re.MULTILINE)
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert allowed == copied


def test_what_is_copied_suffices(image: Image) -> None:
    found = json.loads(image.run(str(image.python), "-c", PROGRAM).splitlines()[-1])
    assert found["errors"] == {}
    assert set(found["dags"]) == DAG_IDS
    tree = image.inside("/opt/wat2mds")
    assert {Path(file).parent for file in found["dags"].values()} == {tree / "dags"}
    assert Path(found["package"]).parent == tree / "include" / "wat2mds"


def test_its_programs_run(image: Image) -> None:
    (program,) = json.loads(dict(instructions())["ENTRYPOINT"])
    assert [point.dist.name for point in entry_points(group="console_scripts", name="airflow") if point.dist] == [
        "apache-airflow-core"
    ]
    (version,) = json.loads(dict(instructions())["CMD"])
    entrypoint = str(image.inside(program))
    said = image.run(entrypoint, version).splitlines()[-1]
    assert said in (ROOT / "pyproject.toml").read_text("utf-8")
    # As Airflow's Helm chart and its probes call it, and the KubernetesExecutor.
    assert image.run(entrypoint, "bash", "-c", "exec airflow version").splitlines()[-1] == said
    assert "--json-string" in image.run(entrypoint, "python", "-m", "airflow.sdk.execution_time.execute_workload", "--help")
    # The stages' program, as a task finds it on its path: with its profiles, which are data of the package.
    command = str(image.python.parent / "wat2mds")
    assert "laion400m" in image.run(command, "models", "list")

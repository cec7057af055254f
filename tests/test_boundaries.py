"""Who may import what (design.md, Layout), read from the source itself: no file is left out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "include" / "wat2mds"
DAG_FILES, PLUGIN_FILES = sorted((ROOT / "dags").glob("**/*.py")), sorted((ROOT / "plugins").glob("**/*.py"))
PACKAGE_FILES = sorted(PACKAGE.glob("**/*.py"))

# What lies beside the core in the package: a folder of its own, with libraries of its own.
BESIDE_CORE = {"cli", "dashboard", "deploy", "models", "search", "serve", "stages", "subsets", "takedown", "training", "world"}
CORE_LIBRARIES = {"pydantic", "httpx", "fsspec", "obstore", "pyarrow", "deltalake", "idna", "mmh3", "rich", "boto3", "botocore"}
# The reader's side of a published dataset: no stage, and loaded by nobody else in core.
READERS = {PACKAGE / "reading.py": ({"models"}, {"streaming"})}
# Core modules that DAG files and plugins may load: they are read every few seconds, by every component.
LIGHT_CORE = {
    *(
        "coverage",
        "errors",
        "figures",
        "settings",
        "stage_settings",
        "drops",
        "layout",
        "s3",
        "ranged",
        "store",
        "manifest",
        "plan",
        "snapshots",
        "identity",
    ),
}
# What a plugin may load inside a function, which the api-server alone calls.
PLUGIN_PAGES = "dashboard"
HEAVY = {
    *("numpy", "pandas", "pyarrow", "deltalake", "torch", "torchvision", "open_clip", "img2dataset", "streaming"),
    *("great_expectations", "fastwarc", "cv2", "boto3", "faiss", "duckdb", "transformers", "lingua"),
}
OTHER_FOLDERS = {file.stem for file in [*DAG_FILES, *PLUGIN_FILES]}
NO_HOME_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "constants", "retired"}
# A child's environment is settings.child_environment.
TOUCHES_ENVIRONMENT = {PACKAGE / "settings.py"}


def imports(file: Path, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import; ``from a import b`` counts as ``a.b`` and as ``a``. For type checkers only: not counted."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in _statements(tree, into_functions=not top_level):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; write the module's full name"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _statements(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not into_functions:
            continue
        yield child
        yield from _statements(child, into_functions=into_functions)


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def part(module: str) -> str:
    """``stages`` of ``wat2mds.stages.extract``; empty for what is not ours."""
    return module.split(".")[1] if module.startswith("wat2mds.") else ""


@pytest.mark.parametrize("file", DAG_FILES, ids=name)
def test_a_dag_file_imports_light_things_only(file):
    plugins = {plugin.stem for plugin in PLUGIN_FILES}
    for module, line in imports(file):
        top, where = module.split(".")[0], f"{name(file)}:{line}"
        if top == "airflow":
            assert module.startswith("airflow.sdk"), f"{where}: {module}; DAG files take from airflow.sdk only"
        elif top == "wat2mds":
            assert part(module) in LIGHT_CORE, f"{where}: {module}; DAG files take light core modules only: {sorted(LIGHT_CORE)}"
        else:
            allowed = {*sys.stdlib_module_names, *plugins, "pendulum"}
            assert top in allowed, f"{where}: {module}; DAG files take airflow.sdk, plugins, pendulum and light core only"


@pytest.mark.parametrize("file", DAG_FILES, ids=name)
def test_a_dag_file_touches_nothing_when_it_is_parsed(file):
    source = file.read_text("utf-8")
    for forbidden in ("os.environ", "getenv", "Variable.get", "get_connection", "open(", "read_text", "httpx", "requests"):
        assert forbidden not in source, f"{name(file)}: {forbidden}; a DAG file reads no environment, file, network or Variable"


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=name)
def test_a_plugin_imports_airflow_and_light_core(file):
    for module, line in imports(file):
        if part(module):
            assert part(module) in LIGHT_CORE | {PLUGIN_PAGES}, (
                f"{name(file)}:{line}: {module}; plugins take light core modules only"
            )
    for module, line in imports(file, top_level=True):
        assert part(module) != PLUGIN_PAGES, f"{name(file)}:{line}: {module}; every component loads this: import in a function"
        assert module.split(".")[0] not in HEAVY, (
            f"{name(file)}:{line}: {module}; every component loads this: import in execute()"
        )


@pytest.mark.parametrize("file", PACKAGE_FILES, ids=name)
def test_the_package_knows_nothing_of_airflow(file):
    for module, line in imports(file):
        top = module.split(".")[0]
        assert top != "airflow", f"{name(file)}:{line}: {module}; include/wat2mds knows nothing of Airflow; talk to it over REST"
        assert top not in OTHER_FOLDERS | {"dags", "plugins"}, (
            f"{name(file)}:{line}: {module}; the package does not know its callers"
        )


@pytest.mark.parametrize("file", [file for file in PACKAGE_FILES if file.parent == PACKAGE], ids=name)
def test_core_imports_core(file):
    parts, libraries = READERS.get(file, (set(), set()))
    for module, line in imports(file):
        where = f"{name(file)}:{line}: {module}"
        if file.name == "__main__.py" and part(module) == "cli":
            continue  # the entry point
        assert part(module) not in BESIDE_CORE - parts, f"{where}; core does not know stages, models, world, cli or deploy"
        top = module.split(".")[0]
        if top != "wat2mds":
            assert top in {*sys.stdlib_module_names, *CORE_LIBRARIES, *libraries}, (
                f"{where}; core's libraries are {sorted(CORE_LIBRARIES)}"
            )


@pytest.mark.parametrize("file", [PACKAGE / f"{module}.py" for module in sorted(LIGHT_CORE)], ids=name)
def test_light_core_is_light(file):
    for module, line in imports(file, top_level=True):
        assert module.split(".")[0] not in HEAVY, f"{name(file)}:{line}: {module}; Airflow loads this: import inside the function"
        if part(module) and part(module) != "__version__":
            assert part(module) in LIGHT_CORE, f"{name(file)}:{line}: {module} is not light itself"


@pytest.mark.parametrize("file", [file for file in PACKAGE_FILES if "stages" in file.parts], ids=name)
def test_a_stage_does_not_know_another(file):
    own = file.relative_to(PACKAGE / "stages").parts[0].removesuffix(".py")
    for module, line in imports(file):
        if part(module) == "stages":
            other = ([*module.split("."), own])[2]
            assert other == own, (
                f"{name(file)}:{line}: {module}; stages hand on files, not functions: move what is shared to core"
            )
        assert part(module) not in {"cli", "deploy", "world"}, f"{name(file)}:{line}: {module}; a stage runs without it"


@pytest.mark.parametrize("file", [*DAG_FILES, *PLUGIN_FILES, *PACKAGE_FILES], ids=name)
def test_only_settings_read_the_environment(file):
    if file in TOUCHES_ENVIRONMENT:
        return
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        found = (
            isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"} and ast.unparse(node.value) == "os"
        )
        assert not found, (
            f"{name(file)}:{getattr(node, 'lineno', 0)}: os.{getattr(node, 'attr', '')}; settings.py reads the environment"
        )


@pytest.mark.parametrize("file", [*DAG_FILES, *PLUGIN_FILES, *PACKAGE_FILES], ids=name)
def test_everything_has_a_home_and_a_size(file):
    assert not NO_HOME_NAMES & {file.stem, *file.relative_to(ROOT).parts}, f"{name(file)}: name it for what it holds"
    lines = len(file.read_text("utf-8").splitlines())
    limit = 150 if file in DAG_FILES else 400
    assert lines <= limit, f"{name(file)} has {lines} lines, more than {limit}: divide it"


def test_the_folders_are_there():
    assert DAG_FILES, "dags/ holds no DAG file: the tests above would pass on nothing"
    assert PLUGIN_FILES, "plugins/ holds no plugin"
    assert len(PACKAGE_FILES) > 20, "include/wat2mds has moved"


def test_airflow_executes_the_plugin_alone() -> None:
    """Each module that the ignore file does not name is executed by every component a second time, under its bare name."""
    named = {line for line in (ROOT / "plugins" / ".airflowignore").read_text().splitlines() if not line.startswith("#")}
    assert named == {file.name for file in PLUGIN_FILES} - {"wat2mds_plugin.py"}

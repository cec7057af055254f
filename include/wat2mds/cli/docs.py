"""The parts of the README that are made from the code: commands, DAGs, data dictionary, drop reasons, settings.

In: the README's text. Out: the same with what stands between ``<!-- made: NAME -->`` and ``<!-- end -->`` made anew. A test fails
when it is stale. What does not belong here: prose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.schema import LAION_VIEW, TABLES
from wat2mds.settings import Deployment, Settings, setting_keys

_PART = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def refresh(readme: str, dags: Path, commands: Any) -> str:
    """The README with its made parts as the code has them now. ``commands``: the click group. Raises ConfigError for an unknown part."""
    makers: dict[str, Callable[[], str]] = {
        "commands": lambda: commands_table(commands),
        "dags": lambda: dags_table(dags),
        "data-dictionary": data_dictionary,
        "drop-reasons": drop_reasons,
        "settings": settings_table,
        "deployment": deployment_table,
    }

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in makers:
            raise ConfigError(f"README: there is no part {name!r} to make; known: {', '.join(makers)}")
        return f"{match[1]}{makers[name]()}\n{match[3]}"

    return _PART.sub(made, readme)


def commands_table(group: Any) -> str:
    """Every sub-command with its first sentence."""
    rows = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        for words, one in [(f"{name} {word}", c) for word, c in inner.items()] or [(name, command)]:
            rows.append((f"`wat2mds {words}`", str(one.help).strip().splitlines()[0]))
    return _table(("Command", "Does"), rows)


def dags_table(folder: Path) -> str:
    """Every DAG file: id, what it makes, schedule, form fields. Read as text: nothing of Airflow is imported."""
    rows = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "dag":
                    options = {keyword.arg: keyword.value for keyword in call.keywords}
                    schedule = ast.unparse(options["schedule"]) if "schedule" in options else "none"
                    form = ast.unparse(options["params"]) if "params" in options else ""
                    fields = ", ".join(_form_fields(tree, form, folder.parent / "plugins"))
                    rows.append((f"`{function.name}`", first, f"`{schedule}`", fields))
    return _table(("DAG", "Makes", "Schedule", "Form"), rows)


def _form_fields(tree: ast.Module, name: str, plugins: Path) -> list[str]:
    """Names of a DAG's Params, a dict called ``name``, from the file itself or the plugin it takes them from."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                fields: list[str] = []
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant):
                        fields.append(str(key.value))
                    elif key is None:  # **OTHER
                        fields += _form_fields(tree, ast.unparse(value), plugins)
                return fields
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            source = plugins / f"{node.module}.py"
            return _form_fields(ast.parse(source.read_text("utf-8")), name, plugins)
    return []


def data_dictionary() -> str:
    """Every table's columns."""
    parts = []
    for table in TABLES.values():
        parts.append(f"\n**{table.name}** ({table.meaning})\n")
        rows = [(f"`{c.name}`", str(c.type), c.unit, c.meaning, c.origin, c.mds or "") for c in table.columns]
        parts.append(_table(("Column", "Type", "Unit", "Meaning", "From", "In shards as"), rows))
    parts.append("\n**LAION's columns** and what fills them\n")
    parts.append(_table(("LAION", "Here"), [(f"`{name}`", f"`{column}`") for name, column in LAION_VIEW.items()]))
    return "\n".join(parts)


def drop_reasons() -> str:
    """Every drop reason; those of download with their class."""
    rows = [(r.stage, f"`{r}`", str(r.failure or ""), r.description) for r in DropReason]
    return _table(("Stage", "Reason", "Class", "Meaning"), rows)


def settings_table() -> str:
    """Every setting of the stages."""
    defaults = Settings()
    rows = []
    for key in setting_keys():
        group, _, name = key.partition(".")
        value = getattr(defaults.group(group), name)
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
        rows.append((f"`{key}`", shown, str(type(defaults.group(group)).model_fields[name].description)))
    return _table(("Setting", "Default", "Meaning"), rows)


def deployment_table() -> str:
    """The WAT2MDS_ variables of a deployment."""
    defaults = Deployment()
    rows = [
        (f"`WAT2MDS_{name.upper()}`", str(getattr(defaults, name) or ""), str(field.description))
        for name, field in Deployment.model_fields.items()
    ]
    return _table(("Variable", "Default", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

"""Every setting, typed and checked before work starts.

Precedence: profile file < environment (``WAT2MDS_DOWNLOAD__IMAGE_SIZE=384``) < command line (``--set download.image_size=384``).
A file of resolved settings (``--settings``) stands for profile and environment together. Unknown keys are errors that name the
nearest known key. Nothing else in wat2mds reads ``os.environ``.

In: profile, environment, command line. Out: ``Settings``, one group a stage (``stage_settings.py``), and ``Deployment``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wat2mds.errors import ConfigError, nearest
from wat2mds.stage_settings import (
    ConvertSettings,
    DedupSettings,
    DownloadSettings,
    ExtractSettings,
    FilterSettings,
    Group,
    ImportSettings,
    PublishSettings,
    UploadSettings,
    ValidateSettings,
)

PREFIX = "WAT2MDS_"
STAGES = ("extract", "dedup", "download", "filter", "validate", "convert", "upload")
FIRST_STAGES = ("extract", "import", "retry")
# What hands download its pairs.
PAIR_STAGES = ("dedup", "retry")


class Settings(BaseModel):
    """All stages' settings and the name of the profile they began with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = "laion400m"
    extract: ExtractSettings = ExtractSettings()
    import_: ImportSettings = Field(ImportSettings(), alias="import")
    dedup: DedupSettings = DedupSettings()
    download: DownloadSettings = DownloadSettings()
    filter: FilterSettings = FilterSettings()
    validate_: ValidateSettings = Field(ValidateSettings(), alias="validate")
    convert: ConvertSettings = ConvertSettings()
    upload: UploadSettings = UploadSettings()
    publish: PublishSettings = PublishSettings()

    @model_validator(mode="after")
    def _rules_have_what_they_read(self) -> Settings:
        if not self.download.pdq and any(entry.startswith("pdq:") for entry in self.filter.block_lists):
            raise ValueError("filter.block_lists names a list of kind pdq, which download.pdq=false leaves without effect")
        if not self.download.pdq and self.filter.near_duplicates != "keep":
            raise ValueError("filter.near_duplicates compares hashes, which download.pdq=false leaves out")
        if self.filter.near_duplicates == "dataset" and not self.publish.groups:
            raise ValueError("filter.near_duplicates=dataset compares with the groups that publish.groups=false leaves out")
        return self

    def group(self, stage: str) -> Group:
        group: Group = getattr(self, f"{stage}_" if stage in ("import", "validate") else stage)
        return group

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, indent=1)

    @property
    def digest(self) -> str:
        """Names these settings, and the file that a dataset keeps of them."""
        return digest(self.model_dump(mode="json", by_alias=True))

    def run_as(self, other: Settings) -> Settings:
        """What is made as here, how it is made as in ``other``: processes, time limits, where names resolve to."""
        groups = {name: self.group(name).run_as(other.group(name)) for name in (*STAGES, "import", "publish")}
        return Settings.model_validate({"profile": self.profile, **groups})

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Settings:
        try:
            return cls.model_validate(json.loads(text))
        except (ValidationError, json.JSONDecodeError) as error:
            raise ConfigError(f"{where} does not hold settings: {_explain(error)}") from error


class Deployment(BaseModel):
    """Where this deployment keeps things and whom it speaks for; from the environment alone (``WAT2MDS_ROOT`` …)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field("", description="root of the store: file:///… or s3://bucket/prefix")
    dataset: str = Field("laion", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="dataset that scheduled runs build")
    profile: str = Field("laion400m", description="profile of scheduled runs, and the form's default")
    schedule_from: datetime | None = Field(
        None, description="no batch with an earlier partition date runs by itself; empty: none does"
    )
    schedule_covers: str = Field(
        "all",
        pattern=r"^(all|\d{1,3}(\.\d+)?%|segments:\d{1,2}(-\d{1,2})?(,\d{1,2}(-\d{1,2})?)*)$",
        description="how much of each snapshot runs by itself: all, a share such as 10%, or segments:0-9,17 by their numbers",
    )
    snapshot_segments: int = Field(
        100, ge=1, description="segments of a whole snapshot: one that lists fewer is left for the next day's refresh"
    )
    maintain_removes: bool = Field(
        False, description="whether the weekly runs of the DAG maintain remove what they find; false: they list it"
    )
    run_deadline_hours: float = Field(
        24,
        gt=0,
        description="hours from its queueing after which people are told of a run that has not ended (connection wat2mds_notify)",
    )
    deadline_executor: str = Field(
        "",
        description="the one of several executors that tells people of late runs; the KubernetesExecutor cannot. Empty: the first",
    )
    store_timeout: float = Field(120, gt=0, description="seconds for one request to an object store, its answer included")
    store_retries: int = Field(
        10, ge=0, description="further tries of a request that an object store failed (5xx, SlowDown, reset)"
    )
    store_retry_seconds: float = Field(120, gt=0, description="seconds after which a failing request is not tried again")
    store_backoff: float = Field(0.2, gt=0, description="seconds before the first retry; doubled each time up to 15, with jitter")
    contact: str = Field("", description="URL or address in the User-Agent; a crawl of the real web asks for it")
    source: str = Field("https://data.commoncrawl.org/", description="where snapshots are read from: URL or folder")
    collinfo: str = Field("https://index.commoncrawl.org/collinfo.json", description="list of Common Crawl's snapshots")
    airflow_url: str = Field("http://127.0.0.1:8080", description="Airflow's address, for run, backfill and status")
    airflow_user: str = Field("admin", description="Airflow's user")
    airflow_password: str = Field("", description="Airflow's password")
    serve_token: str = Field(
        "", description="who sends it to the search service may save subsets and report images; empty: a new one at each start"
    )
    search_url: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="where `wat2mds serve` is reached by people: the dashboard links to it"
    )
    hub_token: str = Field("", description="token for hf: URLs of gated datasets, such as Re-LAION's")
    models: str = Field("", description="folder where fetched models are kept; empty: .cache/wat2mds/models in the user's home")
    search_cache: str = Field(
        "", description="folder where indices of a remote store are kept; empty: .cache/wat2mds/search in the user's home"
    )
    catalogue: str = Field(
        "", description="TOML file of further models, in the form of models/catalogue.toml; its entries come first"
    )
    registry_cache: str = Field(
        "", description="folder for the timetable's copy of the registry; empty: the system's temporary one"
    )


def deployment(environment: Mapping[str, str] | None = None) -> Deployment:
    """The deployment's settings. Raises ConfigError for unknown or bad WAT2MDS_ variables."""
    given = _from_environment(environment)
    flat = {key: value for key, value in given.items() if "." not in key and value != ""}
    try:
        found = Deployment.model_validate(flat)
    except ValidationError as error:
        raise ConfigError(f"environment: {_explain(error, prefix=PREFIX)}") from error
    if found.schedule_from is not None and found.schedule_from.tzinfo is None:
        found = found.model_copy(update={"schedule_from": found.schedule_from.replace(tzinfo=UTC)})
    return found


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment for a child process, with changes."""
    return {**os.environ, **changes}


def aws_variables() -> dict[str, str]:
    """The AWS_ variables of this process, secrets among them: where and as whom the object store is asked."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def profile_names() -> list[str]:
    folder = resources.files("wat2mds") / "profiles"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


@cache
def read_profile(name: str) -> dict[str, Any]:
    """A profile's groups as written in its file. Raises ConfigError for an unknown name."""
    if name not in profile_names():
        raise ConfigError(f"there is no profile {name!r}.{nearest(name, profile_names())}")
    text = (resources.files("wat2mds") / "profiles" / f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


def load_settings(
    profile: str | None = None,
    overrides: Iterable[str] = (),
    *,
    resolved: Settings | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Resolve settings: profile < environment < overrides (``group.key=value``), or ``resolved`` < overrides.

    Raises ConfigError naming the key, its bounds and, for a mistyped name, the nearest known one.
    """
    if resolved is not None:
        merged = resolved.model_dump(mode="json", by_alias=True)
        if profile is not None and profile != resolved.profile:
            raise ConfigError(f"--profile {profile} contradicts the settings file, which was made from {resolved.profile}")
    else:
        given = _from_environment(environment)
        name = profile or given.get("profile") or Settings().profile
        merged = {"profile": name}
        for group, values in read_profile(name).items():
            merged[group] = dict(values)
        for key, value in given.items():
            if "." in key:
                _put(merged, key, value)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} is not of the form group.key=value, e.g. download.image_size=384")
        _put(merged, _known_key(key.strip(), "--set"), value.strip())
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"settings: {_explain(error)}") from error


def setting_keys() -> list[str]:
    """Every ``group.key``."""
    defaults = Settings()
    return [f"{stage}.{key}" for stage in (*STAGES, "import", "publish") for key in type(defaults.group(stage)).model_fields]


def digest(*parts: object) -> str:
    """Twelve hex digits that name what the parts describe (SHA-256 of canonical JSON)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def _known_key(key: str, where: str) -> str:
    if key not in setting_keys():
        raise ConfigError(f"{where}: there is no setting {key!r}.{nearest(key, setting_keys())}")
    return key


def _put(merged: dict[str, Any], key: str, text: str) -> None:
    group, _, name = key.partition(".")
    merged.setdefault(group, {})[name] = _parse(group, name, text)


def _parse(group: str, name: str, text: str) -> Any:
    """Text of the command line or the environment as pydantic wants it; lists are comma-separated, empty means none."""
    annotation = str(type(Settings().group(group)).model_fields[name].annotation)
    if text == "" and "None" in annotation:
        return None
    if "tuple" in annotation:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _from_environment(environment: Mapping[str, str] | None) -> dict[str, str]:
    """WAT2MDS_ variables as ``{"root": …, "download.image_size": …}``. Raises ConfigError for unknown names."""
    variables = os.environ if environment is None else environment
    known = {f"{PREFIX}{name.upper()}": name for name in Deployment.model_fields}
    known |= {f"{PREFIX}{key.replace('.', '__').upper()}": key for key in setting_keys()}
    found = {}
    for variable, value in variables.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise ConfigError(f"environment: there is no setting {variable}.{nearest(variable, known)}")
        found[known[variable]] = value
    return found


def _explain(error: Exception, prefix: str = "") -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"there is no setting {prefix}{key!r}.{nearest(key, setting_keys())}")
        elif problem["type"] == "value_error":  # a rule of ours about several settings: it names them
            lines.append(str(problem["ctx"]["error"]))
        else:
            lines.append(f"{prefix}{key.upper() if prefix else key}: {problem['msg'].lower()}, got {problem['input']!r}")
    return "; ".join(lines)

"""Manifests: the JSON that a stage leaves, last, when a unit of it is complete; and the protocol of making one.

A unit lives in a folder ``out``. Its digest names the settings that made it; ``out/<digest>.json`` is the manifest and
``out/<digest>.<attempt>/`` the files. Guaranteed: a manifest exists only when all its files do; of two attempts at once the first
to create the manifest wins and the other adopts it; a unit whose inputs and settings are unchanged is not made again; what a killed
attempt left in its scratch folder is removed by the next one. What does not belong here: what stages compute.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from wat2mds import __version__
from wat2mds.errors import DataError, Wat2MdsError
from wat2mds.settings import Settings, digest
from wat2mds.store import Store, fetch, file_hash, join, split

log = logging.getLogger(__name__)

# Raise a stage's number when its code makes something else of the same input: its units, and what follows, are then made again.
STAGE_VERSIONS = {
    "extract": 3,
    "import": 1,
    "dedup": 1,
    "download": 4,
    "filter": 5,
    "validate": 3,
    "convert": 2,
    "upload": 1,
    "retry": 1,
}


@dataclass(frozen=True)
class Input:
    """What a unit was made from: a URL and something that changes with its content."""

    url: str
    identity: str


@dataclass(frozen=True)
class Flow:
    """One line of the funnel: ``entered`` things named ``source`` became ``left`` things named ``target``; the rest were dropped."""

    source: str
    target: str
    entered: int
    left: int
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def reconciles(self) -> bool:
        return self.entered == self.left + sum(self.drops.values())


@dataclass(frozen=True)
class StoredFile:
    """One file of a unit: name within its folder, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A complete unit. ``url`` is where the manifest itself lies; the other fields are its content."""

    stage: str
    digest: str
    unit: dict[str, str]
    inputs: list[Input]
    settings: dict[str, Any]
    folder: str
    files: list[StoredFile]
    flows: list[Flow]
    extra: dict[str, Any]
    made_by: str = ""
    made_at: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    url: str = ""
    done_before: bool = False

    @property
    def identity(self) -> str:
        """Changes with what the unit holds, not with when or by which attempt it was made."""
        return digest(self.stage, self.digest, [asdict(f) for f in self.files], [asdict(f) for f in self.flows])

    @property
    def base(self) -> str:
        """URL of the folder that holds the files."""
        return join(split(self.url)[0], self.folder)

    def file(self, name: str) -> str:
        """URL of one file. Raises DataError if the unit has none of that name."""
        if name not in {f.name for f in self.files}:
            raise DataError(f"{self.url} has no file {name!r}; it holds {', '.join(f.name for f in self.files)}")
        return join(self.base, name)

    def fetch(self, name: str, folder: Path) -> Path:
        """One file as a local path."""
        return fetch(self.file(name), folder)

    def matching(self, suffix: str) -> list[str]:
        return sorted(f.name for f in self.files if f.name.endswith(suffix))

    def as_input(self) -> Input:
        return Input(self.url, self.identity)

    def to_json(self) -> bytes:
        content = asdict(self)
        for computed in ("url", "done_before"):
            del content[computed]
        return json.dumps(content, indent=1, sort_keys=True).encode()

    def summary(self) -> dict[str, Any]:
        """The last line of a stage's output: URIs and counts."""
        return {
            "stage": self.stage,
            "manifest": self.url,
            **self.unit,
            "counts": {flow.source: flow.entered for flow in self.flows} | {flow.target: flow.left for flow in self.flows},
            "drops": {reason: n for flow in self.flows for reason, n in flow.drops.items()},
            "done_before": self.done_before,
            "seconds": round(self.seconds, 2),
        }


def read_manifest(url: str) -> Manifest:
    """Raises FileNotFoundError, or DataError for something that is no manifest."""
    folder, name = split(url)
    content = Store(folder).read(name)
    try:
        found = json.loads(content)
        found["inputs"] = [Input(**i) for i in found["inputs"]]
        found["flows"] = [Flow(**f) for f in found["flows"]]
        found["files"] = [StoredFile(**f) for f in found["files"]]
        return Manifest(**found, url=join(folder, name))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{url} is not a manifest of wat2mds: {error}") from error


def open_manifest(url: str, stage: str | tuple[str, ...], digest: str | None = None) -> Manifest:
    """A manifest by its own URL, or the one in a stage's folder; with several stages, of any of them.

    With several in the folder, ``digest`` chooses. Raises DataError where there is none, or no telling which.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    stage = " or ".join(stages)
    if url.endswith(".json"):
        try:
            manifest = read_manifest(url)
        except FileNotFoundError as error:
            raise DataError(
                f"{url} does not exist: {stage} of this WAT file is not complete. Run it, or clear its task, first"
            ) from error
    else:
        names = [name for name in Store(url).names()[0] if name.endswith(".json")]
        if digest and f"{digest}.json" in names:
            names = [f"{digest}.json"]
        if not names:
            raise DataError(f"{url} holds no manifest: run {stage} first, with --out {url}")
        if len(names) > 1:
            raise DataError(f"{url} holds {len(names)} manifests of different settings; name one: {', '.join(names)}")
        manifest = read_manifest(join(url, names[0]))
    if manifest.stage not in stages:
        raise DataError(f"{manifest.url} is the manifest of {manifest.stage}; expected one of {stage}")
    return manifest


def unit_digest(stage: str, settings: dict[str, Any], parents: Sequence[str]) -> str:
    """Names a unit by what decides its content: stage, its code's version, the settings it reads, and its parents' digests."""
    return digest(stage, STAGE_VERSIONS[stage], settings, sorted(set(parents)))


class Unit:
    """One attempt at making a unit; a context manager.

    with Unit(…) as unit:
        if unit.done:
            return unit.manifest
        …write files below unit.scratch…
        return unit.commit(flows=[…])
    """

    def __init__(
        self,
        stage: str,
        out: str,
        inputs: Sequence[Manifest | Input],
        settings: Settings,
        *,
        unit: dict[str, str] | None = None,
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        parents = [i for i in inputs if isinstance(i, Manifest)]
        self.stage = stage
        self.settings = settings.group(stage).fingerprint() if fingerprint is None else fingerprint
        self.digest = unit_digest(stage, self.settings, [p.digest for p in parents])
        self.inputs = [i.as_input() if isinstance(i, Manifest) else i for i in inputs]
        self.unit = unit if unit is not None else (dict(parents[0].unit) if parents else {})
        self.store = Store(out)
        self.scratch = Path()
        self._name = f"{self.digest}.json"
        self._folder = f"{self.digest}.{secrets.token_hex(4)}"
        self._lock: IO[bytes] | None = None
        self._started = (time.monotonic(), _cpu_seconds())

    def __enter__(self) -> Unit:
        if not self.done:
            self._claim_scratch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._lock.close()

    @property
    def url(self) -> str:
        """Where the manifest lies once the unit is complete."""
        return join(self.store.url, self._name)

    @cached_property
    def _complete(self) -> Manifest | None:
        try:
            found = read_manifest(self.url)
        except FileNotFoundError:
            return None
        if found.inputs != self.inputs:
            log.info("%s was made from other inputs: it is made again", found.url)
            return None
        return found

    @property
    def done(self) -> bool:
        """Whether the unit is complete with these inputs and settings."""
        return self._complete is not None

    @property
    def manifest(self) -> Manifest:
        if self._complete is None:
            raise Wat2MdsError(f"{self.stage} in {self.store.url} is not complete")
        log.info("%s is complete already: %s", self.stage, self._complete.url)
        return Manifest(**{**vars(self._complete), "done_before": True})

    def commit(self, flows: list[Flow], extra: dict[str, Any] | None = None) -> Manifest:
        """Bring the scratch folder's files to the store, then create the manifest. Raises Wat2MdsError if a flow does not reconcile."""
        for flow in flows:
            if not flow.reconciles:
                raise Wat2MdsError(f"{self.stage}: {flow.entered} {flow.source} are not {flow.left} {flow.target} + {flow.drops}")
        started, cpu = self._started
        manifest = Manifest(
            stage=self.stage,
            digest=self.digest,
            unit=self.unit,
            inputs=self.inputs,
            settings=self.settings,
            folder=self._folder,
            files=self._describe(),
            flows=flows,
            extra=extra or {},
            made_by=f"wat2mds {__version__}",
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            cpu_seconds=round(_cpu_seconds() - cpu, 3),
            url=self.url,
        )
        if manifest.files:
            self.store.put_tree(self.scratch / "files", self._folder)
        if not self.store.create(self._name, manifest.to_json()):
            winner = read_manifest(manifest.url)
            if winner.folder == self._folder:  # an attempt never takes its own files for another's
                return manifest
            if winner.inputs == self.inputs:
                log.info("another attempt at %s finished first; its result stands", manifest.url)
                self.store.delete_tree(self._folder)
                return Manifest(**{**vars(winner), "done_before": True})
            # Made from inputs that are no more: replaced, and its files go.
            self.store.write(self._name, manifest.to_json())
            self.store.delete_tree(winner.folder)
        for flow in flows:
            log.info("%s: %d %s -> %d %s %s", self.stage, flow.entered, flow.source, flow.left, flow.target, flow.drops or "")
        return manifest

    def path(self, name: str) -> Path:
        """Where to write one of the unit's files."""
        path = self.scratch / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _describe(self) -> list[StoredFile]:
        base = self.scratch / "files"
        paths = sorted(p for p in base.rglob("*") if p.is_file()) if base.is_dir() else []
        return [StoredFile(p.relative_to(base).as_posix(), p.stat().st_size, file_hash(p)) for p in paths]

    @cached_property
    def attempts(self) -> Path:
        """Where attempts have their scratch folders: beside the output, or in the temporary folder for a remote store."""
        if self.store.local is not None:
            return self.store.local / ".attempts"
        return Path(tempfile.gettempdir()) / f"wat2mds-{os.getuid()}" / digest(self.store.url)

    def _claim_scratch(self) -> None:
        """A folder of this attempt's own; those of dead attempts are removed.

        An attempt is alive while it holds the lock on its folder; the kernel drops the lock with the process, however it ends.
        """
        base = self.attempts
        base.mkdir(parents=True, exist_ok=True)
        for other in base.iterdir():
            _remove_if_dead(other)
        # Locked under another name first: a folder in sight of other attempts is always locked while its attempt lives.
        hidden = base / f".new.{self._folder}"
        hidden.mkdir()
        self._lock = (hidden / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.scratch = hidden.rename(base / self._folder)


def _remove_if_dead(attempt: Path) -> None:
    if attempt.name.startswith(".new."):
        return
    try:
        with (attempt / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except FileNotFoundError:  # it ended between the listing and now
        return
    log.info("removing what a dead attempt left in %s", attempt)
    shutil.rmtree(attempt, ignore_errors=True)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

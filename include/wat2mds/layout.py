"""Where things lie: URLs of stores and the paths of a dataset's parts in them (design.md, Store).

In: a URL (a bare path means ``file:``), a dataset's name. Out: URLs. Guaranteed: nothing is read or written.
What does not belong here: access to what lies there (``store.py``).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from wat2mds.errors import ConfigError

SCHEMES = ("file", "s3", "http", "https")


def normalize(url: str) -> str:
    """``/data/x`` and ``file:/data/x`` become ``file:///data/x``; trailing slashes go. Raises ConfigError for other schemes."""
    if not url:
        raise ConfigError("no store is named: set WAT2MDS_ROOT to file:///a/folder or s3://bucket/prefix")
    if "://" not in url and not url.startswith("file:"):
        return Path(url).absolute().as_uri().rstrip("/")
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"{url}: scheme {scheme!r} is not supported; use file:, s3:, or http(s): for reading")
    if scheme == "s3" and "@" in urlsplit(url).netloc:
        raise ConfigError("an s3: URL holds a user or a key: put credentials into the Airflow connection or the AWS_ variables")
    if scheme == "file":
        return Path(unquote(urlsplit(url).path)).absolute().as_uri().rstrip("/")
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """``join("s3://b/p", "work", "00017")`` is ``"s3://b/p/work/00017"``."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts if part)])


def split(url: str) -> tuple[str, str]:
    """Folder URL and object name."""
    folder, _, name = normalize(url).rpartition("/")
    return folder, name


def progress_path(digest: str) -> str:
    """Where, below a stage's folder of one WAT file, the figures of a running unit lie."""
    return f"progress/{digest}.json"


class Layout:
    """Where the parts of one dataset lie: one function per kind of path, all URLs (design.md, Store)."""

    def __init__(self, root: str, dataset: str) -> None:
        self.root = normalize(root)
        self.dataset = join(self.root, "datasets", dataset)

    @classmethod
    def of(cls, dataset_url: str) -> Layout:
        """From a dataset's own URL, ``<root>/datasets/<name>``."""
        parent, name = split(dataset_url)
        root, folder = split(parent)
        if folder != "datasets":
            raise ConfigError(f"{dataset_url} is not a dataset's folder: expected <root>/datasets/<name>")
        return cls(root, name)

    @property
    def registry(self) -> str:
        return join(self.root, "registry")

    def settings(self, digest: str) -> str:
        return join(self.dataset, "settings", f"{digest}.json")

    def work(self, snapshot: str, segment: str, wat_file: str) -> str:
        return join(self.dataset, "work", snapshot, segment, wat_file)

    def stage(self, snapshot: str, segment: str, wat_file: str, stage: str) -> str:
        return join(self.work(snapshot, segment, wat_file), stage)

    @property
    def ledger(self) -> str:
        return join(self.dataset, "ledger")

    @property
    def metadata(self) -> str:
        return join(self.dataset, "metadata")

    @staticmethod
    def unit_name(snapshot: str, segment: str, wat_file: str, digest: str) -> str:
        """Name of a WAT file's folder under shards/ and embeddings/."""
        return f"{snapshot}.{segment}.{wat_file}.{digest}"

    def shards(self, unit_name: str) -> str:
        return join(self.dataset, "shards", unit_name)

    def embeddings(self, unit_name: str) -> str:
        return join(self.dataset, "embeddings", unit_name)

    @staticmethod
    def version_path(number: int) -> str:
        """Path of a version record below the dataset's folder."""
        return f"versions/{number:06d}/version.json"

    @property
    def reports(self) -> str:
        return join(self.dataset, "reports")

    @staticmethod
    def quality_path(unit_key: str, digest: str, suffix: str) -> str:
        """Path of validate's report on a WAT file below reports/; ``suffix``: json or html."""
        return f"quality/{unit_key}.{digest}.{suffix}"

    @staticmethod
    def index_path(number: int, name: str) -> str:
        """Path of the record of a version's kNN index below the dataset's folder."""
        return f"search/{number:06d}/{name}.json"

    @staticmethod
    def index_object_path(digest: str, kind: str) -> str:
        """Path of a part of a kNN index below the dataset's folder, named by its content."""
        return f"search/objects/{digest[:32]}.{kind}"

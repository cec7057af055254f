"""wat2mds rebuilds LAION-style image-text datasets from Common Crawl, one WAT file at a time."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wat2mds")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    __version__ = "0.0.0"

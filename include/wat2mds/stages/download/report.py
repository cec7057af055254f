"""The figures of a running download as an object in the store, for who asks how it is doing (``wat2mds status``).

In: figures, as often as they come. Out: ``progress/<digest>.json`` in the unit's folder (``layout.progress_path``), replaced every half
minute, gone when the download is complete; of one that failed the last figures stay. Guaranteed: a store that is slow or fails
holds nothing up and fails nothing. What does not belong here: the figures (``figures.py``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from types import TracebackType
from typing import Self

from wat2mds.errors import Wat2MdsError
from wat2mds.figures import Figures
from wat2mds.layout import progress_path
from wat2mds.progress import LOG_SECONDS
from wat2mds.store import Store

log = logging.getLogger(__name__)
_END_SECONDS = 5  # that the end of the download waits for a write that is under way


class Report:
    """``with Report(store, digest) as report: … report.tell(figures)``."""

    def __init__(self, store: Store, digest: str, seconds: float = LOG_SECONDS) -> None:
        self._store = store
        self._path = progress_path(digest)
        self._seconds = seconds
        self._figures: Figures | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="report", daemon=True)

    def tell(self, figures: Figures) -> None:
        self._figures = figures

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(_END_SECONDS)
        if error is None:
            with contextlib.suppress(Wat2MdsError, OSError):
                self._store.delete(self._path)

    def _write(self) -> None:
        while not self._ended.wait(self._seconds):
            if self._figures is not None:
                try:
                    self._store.write(self._path, self._figures.to_json())
                except (Wat2MdsError, OSError) as error:
                    log.debug("the figures were not stored: %s", error)

"""Every exception that wat2mds raises on purpose, named for what to do next.

    Wat2MdsError        exit 70   a bug or an unforeseen state: read the traceback, report it
    ├── TransientError  exit 75   network, store or a killed child: try the same command again
    │   └── DiskFullError         a local disk is full: free space first
    ├── DataError       exit 65   this unit's input is bad: a retry will not help, other units are not concerned
    └── ConfigError     exit 78   settings or arguments are wrong; nothing was touched

Exit codes follow BSD's sysexits.h (EX_DATAERR 65, EX_SOFTWARE 70, EX_TEMPFAIL 75, EX_CONFIG 78). Trouble with one record,
pair or sample is not an exception but a drop reason (``drops.py``). Messages say what, where, and what to do.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class Wat2MdsError(Exception):
    """Base of all; by itself: a bug."""

    exit_code = 70
    next_action = "this is a bug in wat2mds or an unforeseen state: keep the log and report it"


class TransientError(Wat2MdsError):
    """The same command may well succeed later."""

    exit_code = 75
    next_action = "try again: the same command continues from what is complete"


class DiskFullError(TransientError):
    """A disk of this machine, or a share of it, is full."""

    next_action = "free space on that disk and try again: the same command continues from what is complete"

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Whether the operating system said so; obstore passes its words on and not its number."""
        number = getattr(error, "errno", None)
        return number in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error)


class DataError(Wat2MdsError):
    """The unit's input is bad; a retry will not help."""

    exit_code = 65
    next_action = "mend or leave out this input: a retry will not help"


class ConfigError(Wat2MdsError):
    """Settings or arguments are wrong; nothing was touched."""

    exit_code = 78
    next_action = "correct the setting: nothing was written"


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest valid name, or lists the valid ones: ``" Did you mean 'laion5b'?"``."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    if not options:
        return ""
    listed = ", ".join(options[:20]) + (" …" if len(options) > 20 else "")
    return f" Known: {listed}."

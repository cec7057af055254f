"""``wat2mds`` as it is, but for one thing: loopback counts as public, so that an origin of this machine can be asked over real TLS.

``python -m tests.benchmarks.loopback download …``. The resolver setting of the demo's world would do for http alone: it speaks no TLS.
"""

from __future__ import annotations

import sys
from typing import Any

from wat2mds.stages.download import addresses, workers

_work = workers.work


def work(*arguments: Any) -> None:
    """In the place of a download worker's main function, in its process."""
    addresses.is_public = lambda address: True
    _work(*arguments)


def main() -> None:
    from tests.benchmarks import loopback  # by the name under which workers find it
    from wat2mds.cli.main import main

    workers.work = loopback.work
    sys.exit(main())


if __name__ == "__main__":
    main()

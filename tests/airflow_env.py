"""Import this before airflow: it gives the tests an Airflow home of their own and this project's folders.

Airflow reads its configuration when it is first imported, and goes without DAGs, without a word, when a folder is missing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DAGS, PLUGINS, INCLUDE = ROOT / "dags", ROOT / "plugins", ROOT / "include"

if "airflow" in sys.modules:
    raise ImportError("tests.airflow_env must be imported before airflow: import it first in the conftest.py of this folder")

_home = tempfile.mkdtemp(prefix="wat2mds-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # Lets a test call an operator's execute() outside a task runner.
    "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
}
sys.path[:0] = [str(DAGS), str(PLUGINS)]

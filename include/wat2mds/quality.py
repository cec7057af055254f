"""Quality reports: where the dataset keeps validate's, and the pages that show them.

In: validate's report on a WAT file; a run's reports. Out: JSON and HTML below ``reports/quality/``. Guaranteed: a page is one file that
needs no other and no network, with every value escaped; the same report gives the same bytes. What does not belong here: what is
expected (``stages/validate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wat2mds.store import Layout, Store, join

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#c62828;--warn:#b26a00;--good:#2e7d32}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--warn:#ffb74d;--good:#81c784}}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.4rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
.critical{color:var(--bad)}.warning{color:var(--warn)}.passed{color:var(--good)}
.critical,.warning,.passed{font-weight:600}
section.failed{border-left:4px solid var(--line);padding-left:1rem;margin:1.2rem 0}
section.failed h2,section.failed p{margin:.2rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
.wide{overflow-x:auto}code,pre{font:.85rem/1.45 ui-monospace,monospace}pre{white-space:pre-wrap}
summary{cursor:pointer;padding:.2rem 0}
"""


def store_report(dataset_url: str, unit_key: str, digest: str, report: bytes, page: bytes) -> str:
    """Keep a WAT file's report with the dataset; the URL of its page. It outlives the work folder, and a later one replaces it."""
    store = Store(Layout.of(dataset_url).reports)
    store.write(Layout.quality_path(unit_key, digest, "html"), page)
    store.write(Layout.quality_path(unit_key, digest, "json"), report)
    return join(store.url, Layout.quality_path(unit_key, digest, "html"))


def read_report(dataset_url: str, unit_key: str, digest: str) -> dict[str, Any] | None:
    """validate's report on a WAT file; None where there is none."""
    try:
        found: dict[str, Any] = Store(Layout.of(dataset_url).reports).read_json(Layout.quality_path(unit_key, digest, "json"))
    except FileNotFoundError:
        return None
    return found


def summary_of(report: Mapping[str, Any], unit_key: str, digest: str) -> dict[str, Any]:
    """A WAT file's row in the report of a run."""
    failed = [e for e in report["expectations"] if not e["success"]]
    return {
        "page": Layout.quality_path(unit_key, digest, "html"),
        "passed": report["passed"],
        "expectations": len(report["expectations"]),
        "critical": [e["name"] for e in failed if e["severity"] == "critical"],
        "warnings": [e["name"] for e in failed if e["severity"] != "critical"],
    }


def wat_file_page(report: Mapping[str, Any], command: str) -> bytes:
    """validate's report on one WAT file. ``command`` is what looks again."""
    place = " · ".join(str(report[name]) for name in ("snapshot", "segment", "wat_file") if name in report)
    outcomes = report["expectations"]
    failed = sorted((e for e in outcomes if not e["success"]), key=lambda e: e["severity"] != "critical")
    critical = sum(e["severity"] == "critical" for e in failed)
    verdict = (
        f'<p class="critical">Held back: {critical} critical expectation(s) failed. Nothing of this WAT file is published.</p>'
        if critical
        else '<p class="passed">Passed: no critical expectation failed.</p>'
    )
    body = [f"<h1>Quality of WAT file {escape(place)}</h1>", verdict]
    body.append(f"<p>{len(outcomes)} expectations, {critical} critical and {len(failed) - critical} warnings failed.</p>")
    body += [_failed(outcome) for outcome in failed]
    body.append("<h2>Drift from what was published before</h2>")
    drift = report.get("drift") or []
    if drift:
        header = ("measure", "now", "before", "difference", "warns above", "blocks above")
        measures = [(d["meaning"], d["now"], d["before"], d["difference"], d["warn"], d["block"]) for d in drift]
        body.append(f"<p>Compared with {drift[0]['wat_files']} published WAT files.</p>")
        body.append(_table(header, measures))
    else:
        body.append(f"<p>{escape(str(report.get('drift_note') or 'not looked for'))}</p>")
    body.append("<h2>All expectations</h2>")
    for table in dict.fromkeys(e["table"] for e in outcomes):
        of_table = [e for e in outcomes if e["table"] == table]
        bad = sum(not e["success"] for e in of_table)
        mark = f'<span class="critical">{bad} failed</span>' if bad else '<span class="passed">all passed</span>'
        rows = [(e["name"], e["rule"], e["severity"], e["failed"], e["rows"]) for e in of_table]
        body.append(f"<details><summary>{escape(table)}: {len(of_table)}, {mark}</summary>")
        body.append(_table(("expectation", "rule", "severity", "failed", "rows"), rows) + "</details>")
    body.append(f"<h2>To look again, with the same settings</h2><pre>{escape(command)}</pre>")
    return _page(f"Quality of WAT file {place}", body)


def run_page(batch: str, rows: Mapping[str, Mapping[str, Any] | None]) -> bytes:
    """A run's WAT files, by number, each with its row (``summary_of``); None where validate left no report."""
    held = sum(row is not None and not row["passed"] for row in rows.values())
    warned = sum(row is not None and row["passed"] and bool(row["warnings"]) for row in rows.values())
    body = [f"<h1>Quality of batch {escape(batch)}</h1>"]
    body.append(
        f"<p>{len(rows)} WAT files: {held} held back, {warned} with warnings, {list(rows.values()).count(None)} not validated.</p>"
    )
    cells = []
    for number, row in rows.items():
        if row is None:
            cells.append(f"<tr><td>{escape(number)}</td><td>not validated</td><td></td></tr>")
            continue
        kind = "critical" if not row["passed"] else ("warning" if row["warnings"] else "passed")
        word = {"critical": "held back", "warning": "passed with warnings", "passed": "passed"}[kind]
        names = ", ".join([*row["critical"], *row["warnings"]])
        cells.append(
            f'<tr><td><a href="{escape(row["page"], quote=True)}">{escape(number)}</a></td>'
            f'<td class="{kind}">{word}</td><td>{escape(names)}</td></tr>'
        )
    header = "<tr><th>WAT file</th><th>result</th><th>failed expectations</th></tr>"
    body.append(f'<div class="wide"><table>{header}{"".join(cells)}</table></div>')
    return _page(f"Quality of batch {batch}", body)


def _failed(outcome: Mapping[str, Any]) -> str:
    # What drifted has no rows to show, and a table of its own on the page.
    examples = [] if outcome["table"] == "drift" else outcome["examples"]
    shown = ""
    if examples:
        columns = sorted({name for example in examples for name in example})
        shown = "<p>For example:</p>" + _table(columns, [[example.get(name) for name in columns] for example in examples])
    return (
        f'<section class="failed"><h2><span class="{escape(outcome["severity"])}">{escape(outcome["severity"])}</span> '
        f"<code>{escape(outcome['name'])}</code></h2><p>{escape(outcome['rule'])}</p>"
        f"<p>Fails on {outcome['failed']:,} of {outcome['rows']:,} rows of {escape(outcome['table'])}.</p>{shown}</section>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any, tag: str = "td") -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        text = "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if number else str(value)
        return f"<{tag}{' class=number' if number else ''}>{escape(text)}</{tag}>"

    head = "".join(cell(name, "th") for name in header)
    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _page(title: str, body: Sequence[str]) -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    ).encode()

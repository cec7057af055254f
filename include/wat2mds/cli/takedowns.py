"""Commands about takedowns: take down, and prove that it is gone."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from wat2mds.cli.options import Root, emit
from wat2mds.cli.versions import Named, dataset_url
from wat2mds.errors import ConfigError, DataError

log = logging.getLogger(__name__)
Lists = Annotated[
    list[str] | None,
    typer.Option(
        "--list",
        help="Path or URL (file:, s3:, http(s):) of a list; may be repeated. Text: one entry a line, with --kind. "
        "CSV or parquet: columns kind and value.",
        metavar="FILE",
    ),
]
Kind = Annotated[
    str | None, typer.Option(help="What the entries of a text list are: uid, url, domain, page, md5, sha1, sha256 or pdq.")
]
Distance = Annotated[
    int,
    typer.Option(
        help="Bits of 256 in which a PDQ hash may differ, of images of quality 50 or more; ThreatExchange: 31. 0: none.",
        min=0,
        max=127,
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(takedown)


def takedown(
    dataset: Named = None,
    lists: Lists = None,
    kind: Kind = None,
    reports: Annotated[bool, typer.Option("--reports", help="What the search page's visitors reported.")] = False,
    pdq_distance: Distance = 0,
    reason: Annotated[
        str, typer.Option(help="Why; stands in the report, and where a withdrawn version is opened.")
    ] = "asked for",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; write nothing.")] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="No run is at work: nothing waits for WAT files that are not published.")
    ] = False,
    root: Root = None,
) -> None:
    """Take listed samples down for good: out of every version, index, subset and file, and never in again.

    Without a list: complete takedowns that were interrupted, or that waited for runs at work. A domain stands for its subdomains, of
    images and of pages that link to them; a uid for one sample.
    """
    from wat2mds.store import Store
    from wat2mds.takedown.entries import entries_of
    from wat2mds.takedown.lists import unmatched

    url = dataset_url(root, dataset)
    with tempfile.TemporaryDirectory(prefix="wat2mds-takedown-") as folder:
        given = [(name, _fetched(name, Path(folder) / f"{number}")) for number, name in enumerate(lists or ())]
        words = _words(given, kind, url, reports)
        if not words:
            if lists or reports:
                typer.echo("nothing is reported: nothing to do", err=True)
            elif not dry_run:
                from wat2mds.takedown.applying import complete

                emit({"dataset": url, "takedowns": complete(url, alone=alone)})
                return
            emit({"dataset": url, "takedowns": []})
            return
        entries = entries_of(words, pdq_distance)
        if dry_run:
            from wat2mds.takedown.outlook import outlook

            found = outlook(url, entries)
            missing = [text for name, path in given for text in unmatched(entries, path, name, kind)][:20]
            for text in missing:
                typer.echo(f"names nothing: {text}", err=True)
            for uid in found["examples"]:
                typer.echo(f"would go: {uid}", err=True)
            emit({"dataset": url, "dry_run": True, **found})
            return
        from wat2mds.takedown.applying import apply
        from wat2mds.takedown.records import record

        names = [*(lists or ()), *(["reports"] if reports else [])]
        asked = record(Store(url), entries, names, reason, pdq_distance)
        log.info("takedown %d is recorded: %s; interrupted, `wat2mds takedown` completes it", asked.number, asked.counts)
        report = apply(url, asked, alone=alone)
        if report["waiting"]:
            log.warning(
                "%d WAT files are not published and may be at work: they are looked through when they are published, and by the next "
                "`wat2mds takedown`; --alone says that no run is at work",
                len(report["waiting"]),
            )
        emit({"dataset": url, "takedowns": [report]})


def prove_absent(url: str, lists: list[str], kind: str | None) -> None:
    """``wat2mds verify --absent``. Raises DataError where something of the lists is found."""
    from dataclasses import asdict

    from wat2mds.takedown.absent import MOST_TEXTS, search
    from wat2mds.takedown.entries import entries_of
    from wat2mds.takedown.lists import texts_of

    with tempfile.TemporaryDirectory(prefix="wat2mds-absent-") as folder:
        given = [(name, _fetched(name, Path(folder) / f"{number}")) for number, name in enumerate(lists)]
        entries = entries_of(_words(given, kind, url, reports=False))
        texts = [text for name, path in given for text in texts_of(path, name, kind, MOST_TEXTS + 1)]
    found = search(url, entries, texts)
    for line in found.found:
        log.error("%s", line)
    emit(asdict(found) | {"listed": entries.counts})
    if found.found:
        raise DataError(
            f"{url} holds what is listed, in {len(found.found)} places, the first: {found.found[0]}. "
            f"`wat2mds takedown --list …` takes it down"
        )


def _fetched(name: str, folder: Path) -> Path:
    """Raises ConfigError where there is no such list."""
    from wat2mds.layout import normalize
    from wat2mds.source import bring, look_up

    folder.mkdir()
    try:
        return bring(look_up(normalize(name)), folder)
    except (DataError, FileNotFoundError) as error:
        raise ConfigError(f"the list cannot be read: {error}") from error


def _words(given: list[tuple[str, Path]], kind: str | None, url: str, reports: bool) -> dict[str, Any]:
    import numpy as np

    from wat2mds.store import Store
    from wat2mds.takedown.entries import text_words
    from wat2mds.takedown.lists import read_list

    parts: dict[str, list[Any]] = {}
    for name, path in given:
        for one, words in read_list(path, name, kind).items():
            parts.setdefault(one, []).append(words)
    if reports:
        names = [entry.path.rpartition("/")[2] for entry in Store(url).walk("reports/takedown")]
        if uids := sorted({name.partition("-")[0] for name in names}):
            parts.setdefault("uid", []).append(text_words("uid", uids))
    return {one: np.concatenate(some) for one, some in parts.items()}

"""New snapshots of Common Crawl, made known to the registry.

In: ``collinfo.json`` and the ``wat.paths.gz`` of each snapshot that is not registered. Out: registry entries of those that are whole;
of the others, why not. Guaranteed: everything is read and checked before anything is written, so that a list or a registry that
cannot be read, or is malformed, changes nothing; a refresh that is cut short is gone on with by the next. What does not belong here: one
snapshot by its name (``Registry.register``), when batches run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wat2mds.errors import ConfigError
from wat2mds.snapshots import (
    BATCH_SIZE,
    SEED,
    Registry,
    Segment,
    read_collinfo,
    read_wat_paths,
    segments_of,
    wat_paths_url,
)


@dataclass
class Refreshed:
    """``listed``: snapshots in Common Crawl's list, ``known`` those among them that were registered before; ``registered``: the new
    ones' segments, oldest snapshot first; ``left``: for each that was not taken, the reason; ``awaited``: where the newest one's
    WAT files will be listed, if they are not yet. Older ones without a listing never had WAT files."""

    listed: int
    known: int
    registered: dict[str, tuple[Segment, ...]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    awaited: str = ""


def refresh(
    registry: Registry,
    *,
    collinfo: str,
    source: str,
    whole: int,
    batch_size: int = BATCH_SIZE,
    seed: int | None = SEED,
    dry_run: bool = False,
) -> Refreshed:
    """Register what is new, oldest first. ``whole``: the number of segments below which a snapshot is not complete yet.

    Raises DataError for a malformed list, listing or registry entry, TransientError where one cannot be read.
    """
    listed = read_collinfo(collinfo)
    known = {snapshot.id for snapshot in registry.snapshots()}
    done = Refreshed(len(listed), len(known & listed.keys()))
    listings: dict[str, bytes] = {}
    newest = max(listed, key=lambda name: (listed[name][1], name))
    for name in sorted(listed.keys() - known, key=lambda name: (listed[name][1], name)):
        where = wat_paths_url(source, name)
        listing = read_wat_paths(source, name)
        if listing is None:
            if name == newest:
                done.awaited = where
            done.left[name] = (
                f"there is no {where}: its WAT files are not listed yet, or it has none, as Common Crawl's before 2013"
            )
            continue
        segments = segments_of(listing, name, where)
        if len(segments) < whole:
            done.left[name] = (
                f"{where} lists {len(segments)} segments, a whole snapshot has {whole}: it is looked at again with the next refresh. "
                f"If it is whole as it stands: wat2mds snapshots register {name}"
            )
            continue
        done.registered[name], listings[name] = segments, listing
    for name, listing in () if dry_run else listings.items():
        segments = done.registered[name]
        try:
            registry.add(listing, name, listed[name], source=source, segments=segments, batch_size=batch_size, seed=seed)
        except ConfigError as error:  # its dates run into another's: the others can be had all the same
            done.left[name] = str(error)
            del done.registered[name]
    return done

"""Takedown: samples that must go leave every part of a dataset, and do not come back.

In: lists of uids, URLs, domains, page URLs or image hashes. Out: a version without what they name; every object that held it is rewritten
or gone; below ``takedowns/``, which nothing else writes:

    000001/request.json       what was asked for; its create is the record, from which on nothing of it is published any more
    entries/<digest>.npy      its entries as hashes, and the uids that they matched: tombstones, without any content
    000001/found.json         what was found: counts
    doomed/<unit>-….json      a WAT file's objects that are to go, or are going
    000001/report.json        what was done; written last

Guaranteed: every step can be repeated, so that whatever was killed is completed by the same command; what a run that was at work
meanwhile publishes is looked through by publish itself. The ledger keeps its claims: a uid is a hash, and the claim keeps the pair out.
What does not belong here: which samples ought to go.

    lists.py        lists as people have them
    entries.py      lists as hashes, and which rows of a table they name
    records.py      what was asked for; tombstones
    finding.py      where it stands in the published WAT files
    rewriting.py    a WAT file without it
    regrouping.py   groups of near-duplicates without it
    guard.py        WAT files that were built before a takedown and are published after it
    applying.py     all steps in their order
    removing.py     objects that no version names any more
    work.py         intermediate files
    absent.py       the proof
"""

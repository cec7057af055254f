"""Records of a WAT file, whatever its state: gzip of one or many members, or plain; with lengths that lie, and damage in between.

In: a seekable binary stream. Out: its records in order, and what could not be read. Guaranteed: iteration ends, never raises for
damaged content, says where bytes were lost, resumes at the next gzip member or the next line that begins a record, and holds no
more than one window and one record of at most ``max_bytes`` in memory. What does not belong here: what a record's JSON says.

Why not fastwarc: a lying Content-Length makes it swallow the records that follow, whatever their size, and it does not say where a
member ends. A member that is whole in the window is inflated at once by libdeflate, which takes a quarter less than ISA-L; anything
else by ISA-L, which inflates piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

import msgspec
from deflate import DeflateError, crc32, gzip_decompress
from isal import isal_zlib
from stringzilla import find

MAX_RECORD_BYTES = 64 << 20  # Common Crawl cuts pages at 1 MiB (5 MiB since 2025); the JSON of their links stays far below this
_BROKEN: Any = isal_zlib.error  # its stub does not call it an exception
_MAGIC = b"\x1f\x8b\x08"
_WINDOW = 256 << 10
# What is inflated at once: members up to these sizes, before and after. Nearly all are.
_MEMBER = 256 << 10
_MAX_INFLATED = 8 << 20
# What a decompressor of pieces is fed: no bomb inflates to more than a record may hold.
_SLICE = 32 << 10
# RFC 1952 sets no limit to a header's name and comment. A member that has inflated to nothing after so many bytes is none.
_MAX_GZIP_HEAD = 4 << 10
_CHECKS = Struct("<II")  # RFC 1952: what ends a member, CRC-32 and size
_MAX_HEAD = 64 << 10
_STRADDLE = 16
_GAP = re.compile(rb"(?:[\r\n \t\x00]|\xef\xbb\xbf)*")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?(?:\n|$)", re.IGNORECASE)
_LENGTH_AS_WRITTEN = b"\nContent-Length: "
_BOUNDARY = re.compile(rb"\n(?=WARC/[01]\.\d+\r?\n)")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record: ``text[begin:start]`` is its head, ``text[start:end]`` its block; copied only where they are wanted.

    ``offset`` is that of its gzip member, or its own in a plain file. ``exact``: the block is as long as Content-Length says;
    otherwise it reaches to the next record, the member's or the file's end.
    """

    offset: int
    text: bytes | bytearray
    begin: int
    start: int
    end: int
    exact: bool

    @property
    def head(self) -> bytes:
        return bytes(self.text[self.begin : self.start])

    @property
    def data(self) -> bytes:
        return bytes(self.text[self.start : self.end])


class Damage(NamedTuple):
    """Bytes that could not be read: where, how many of the file's, and why. Counts as one lost record."""

    offset: int
    size: int
    detail: str
    truncated: bool = False


def read_records(stream: BinaryIO, size: int, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[Record | Damage]:
    """All records of a seekable binary stream of ``size`` bytes."""
    source = _Source(stream, size)
    if source.at(_MAGIC):
        yield from _read_gzip(source, _Framer(max_bytes, linear=False))
        return
    framer = _Framer(max_bytes, linear=True)
    while window := source.take(_WINDOW):
        yield from framer.feed(bytes(window), source.position - len(window))
    yield from framer.finish()


def _read_gzip(source: _Source, framer: _Framer) -> Iterator[Record | Damage]:
    damage: Damage | None = None  # damage upon damage is one
    while True:
        if framer.empty and damage is None:
            start, whole = yield from _sole_records(source)
        else:
            start, whole = source.position, _inflate_member(source)
        if start >= source.size:
            break
        kept, begins = start, True
        try:
            for piece, ends in _pieces(source) if whole is None else [(whole, True)]:
                for found in framer.feed(piece, start, begins=begins, ends=ends):
                    if damage is not None:
                        yield damage
                        damage = None
                    yield found
                    kept = source.position
                begins = False
            continue
        except _BROKEN as error:
            detail, truncated = f"gzip member damaged: {error}", False
        except EOFError:
            detail, truncated = "the file ends within a gzip member", True
        framer.forget()
        origin = kept if damage is None else damage.offset
        source.find(_MAGIC, max(start + 1, kept))
        ended = source.position >= source.size
        damage = Damage(origin, source.position - origin, detail if damage is None else damage.detail, truncated and ended)
    yield from framer.finish()
    if damage is not None:
        yield damage


def _sole_records(source: _Source) -> Generator[Record, None, tuple[int, bytearray | None]]:
    """The records of the gzip members that come next, while each member is whole at hand and holds one as Common Crawl writes it: nearly
    all do. Returns where the first begins of which that is not so, and what ``_inflate_member`` gives of it."""
    while True:
        start = source.position
        whole = _inflate_member(source)
        record = None if whole is None else _only_record(whole, start)
        if record is None:
            return start, whole
        yield record


def _inflate_member(source: _Source) -> bytearray | None:
    """The gzip member that comes next, if it reaches to where another seems to begin, or to the end; None, and nothing taken,
    where it takes the long way to tell."""
    member = source.take(_MEMBER, before=_MAGIC)
    if 0 < int.from_bytes(member[-4:], "little") <= _MAX_INFLATED:  # of none it is not asked whether the rest is gzip
        try:
            inflated = gzip_decompress(member)
        except (DeflateError, ValueError):
            pass
        else:
            # libdeflate does not say what follows the member: nothing, if the checks it has held to stand at the end and only there.
            checks = _CHECKS.pack(crc32(inflated), len(inflated))
            if find(member, checks) == len(member) - _CHECKS.size:
                return inflated
    source.give_back(len(member))
    return None


def _pieces(source: _Source) -> Iterator[tuple[bytes | bytearray, bool]]:
    """The pieces of the gzip member that comes next, and whether each is the last. Raises isal_zlib.error, or EOFError where the file
    ends."""
    inflater: Any = isal_zlib.decompressobj(wbits=31)
    piece = _inflate(source, inflater, _SLICE, before=_MAGIC)
    if not piece and not inflater.eof:
        piece = _inflate(source, inflater, _MAX_GZIP_HEAD)
        if not piece and not inflater.eof:
            raise _BROKEN(f"more than {_MAX_GZIP_HEAD:,} bytes inflate to nothing")
    yield piece, inflater.eof
    while not inflater.eof:
        yield _inflate(source, inflater, _SLICE), inflater.eof


def _inflate(source: _Source, inflater: Any, size: int, before: bytes = b"") -> bytes:
    if not (window := source.take(size, before)):
        raise EOFError
    piece: bytes = inflater.decompress(window)
    if inflater.eof and (unused := inflater.unused_data):
        source.give_back(len(unused))
    return piece


def _only_record(piece: bytearray, offset: int) -> Record | None:
    """The record that a gzip member holds, if it is one as Common Crawl writes it: nearly all are, so they take the short way."""
    head = piece.find(b"\r\n\r\n", 0, _MAX_HEAD)
    length = piece.find(_LENGTH_AS_WRITTEN, 0, head)
    digits = piece[length + len(_LENGTH_AS_WRITTEN) : head]  # the last of the head's lines, or there is more than digits
    end = len(piece) - 4
    if length < 0 or not digits.isdigit() or len(digits) > 18 or head + 4 + int(digits) != end:
        return None
    if not piece.endswith(b"\r\n\r\n") or not piece.startswith(b"WARC/"):
        return None
    return Record(offset, piece, 0, head + 4, end, True)


class _Source:
    """A stream in windows: taken in slices, given back in part."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._window = memoryview(b"")
        self._start = 0  # of the window in the stream
        self._at = 0  # within the window

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, size: int, before: bytes = b"") -> memoryview:
        """At most ``size`` bytes, and no second ``before`` in them; none at the end only. Without ``before`` no more than are at hand."""
        found = find(self._window, before, self._at + 1, self._at + size) if before else -1
        while found < 0 and len(self._window) - self._at < (size if before else 1) and (more := self._stream.read(_WINDOW)):
            self._window = memoryview(b"".join((self._window[self._at :], more)))
            self._start += self._at
            self._at = 0
            found = find(self._window, before, 1, size) if before else -1
        part = self._window[self._at : self._at + size if found < 0 else found]
        self._at += len(part)
        return part

    def give_back(self, size: int) -> None:
        self._at -= size

    def at(self, prefix: bytes) -> bool:
        """Whether the stream begins so; asked at its start."""
        part = self.take(_WINDOW)
        self.give_back(len(part))
        return bytes(part[: len(prefix)]) == prefix

    def find(self, wanted: bytes, offset: int) -> None:
        """Go to the first ``wanted`` at or after an offset, or to the end."""
        if self._start <= offset < self._start + len(self._window):
            found = self._window.obj.find(wanted, offset - self._start)  # type: ignore[attr-defined]
            if found >= 0:  # as after a magic number that begins nothing: many of them are no reason to read again for each
                self._at = found
                return
        while offset < self.size:
            self._stream.seek(offset)
            window = bytes(self._stream.read(_WINDOW))
            found = window.find(wanted)
            if found >= 0 or len(window) < len(wanted):
                self._window, self._start, self._at = memoryview(window), offset, max(found, 0)
                if found >= 0:
                    return
                break
            offset += len(window) - len(wanted) + 1
        self._window, self._start, self._at = memoryview(b""), self.size, 0


class _Framer:
    """Cuts inflated bytes into records. A record may span pieces, and gzip members where the next one begins no record."""

    def __init__(self, max_bytes: int, linear: bool) -> None:
        self._max = max_bytes
        self._linear = linear
        self.forget()

    def forget(self) -> None:
        """Drop what is not yet a record."""
        self._pieces: list[bytes | bytearray] = []
        self._marks: list[tuple[int, int]] = []  # (position in the buffer, offset in the file)
        self._size = 0
        self._need = 0
        self._lost: Damage | None = None  # bytes that are no record, until the next one begins

    @property
    def empty(self) -> bool:
        return not self._size and self._lost is None

    def feed(self, piece: bytes | bytearray, offset: int, begins: bool = False, ends: bool = False) -> Iterator[Record | Damage]:
        """The records that are complete with this piece; ``begins`` and ``ends``: it is a gzip member's first, its last."""
        if begins and self._size and piece.startswith(b"WARC/"):
            yield from self._cut(final=True, ends=True)
        self._marks.append((self._size, offset))
        self._pieces.append(piece)
        self._size += len(piece)
        if ends or self._size >= self._need:
            yield from self._cut(final=False, ends=ends)

    def finish(self) -> Iterator[Record | Damage]:
        """The rest, when nothing more will come."""
        yield from self._cut(final=True, ends=True)

    def _cut(self, final: bool, ends: bool) -> Iterator[Record | Damage]:
        data = b"".join(self._pieces)
        position, size = 0, len(data)
        need = 0
        headless = 0  # no head ends before this: a file of nothing but first lines is searched once
        while True:
            position = _GAP.match(data, position).end()  # type: ignore[union-attr]
            if position >= size:
                break
            if size - position < 5 and not final:
                need = size + 5
                break
            head = None
            if data.startswith(b"WARC/", position):
                head = _HEAD_END.search(data, max(position, headless), position + _MAX_HEAD)
            if head is None:
                if data.startswith(b"WARC/", position) and size - position < _MAX_HEAD and not final:
                    need = position + min(_MAX_HEAD, 2 * (size - position))
                    break
                if data.startswith(b"WARC/", position):
                    headless = min(position + _MAX_HEAD, size) - 3
                position = self._skip(data, position, final, "bytes that begin no WARC record")
                if not final and size - position <= _STRADDLE:
                    need = size + 1
                    break
                continue
            start = head.end()
            length = _LENGTH.search(data, position, head.start())
            end = start + int(length[1]) if length else -1
            if size < end <= start + self._max and not final:
                need = end + 4
                break
            exact = False
            if 0 <= end <= size:
                after = _GAP.match(data, end).end()  # type: ignore[union-attr]
                exact = after >= size or data.startswith(b"WARC/", after)
                if not final and not ends and after - end < 4 and size - after < 5:
                    need = size + 5
                    break
            if not exact:
                boundary = _BOUNDARY.search(data, start - 1)
                if boundary:
                    end = boundary.start() + 1
                elif final:
                    end = size
                elif size - start < self._max:
                    need = 2 * size
                    break
                else:
                    position = self._skip(data, position, final, f"a record of more than {self._max:,} bytes")
                    continue
            if self._lost is not None:
                yield self._lost
                self._lost = None
            yield Record(self._offset(position), data, position, start, end, exact)
            position = end
        self._keep(data, position, need)
        if final and self._lost is not None:
            yield self._lost
            self._lost = None

    def _skip(self, data: bytes, position: int, final: bool, detail: str) -> int:
        """Where the next record may begin; what lies before it is lost."""
        boundary = _BOUNDARY.search(data, position)
        end = len(data) if final else max(position, len(data) - _STRADDLE)  # a record's first line may straddle two pieces
        if boundary:
            end = boundary.start() + 1
        size = end - position if self._linear else 0  # of inflated bytes there is no telling
        if self._lost is None:
            self._lost = Damage(self._offset(position), size, detail)
        else:
            self._lost = self._lost._replace(size=self._lost.size + size)
        return end

    def _offset(self, position: int) -> int:
        mark, offset = next(mark for mark in reversed(self._marks) if mark[0] <= position)
        return offset + position - mark if self._linear else offset

    def _keep(self, data: bytes, position: int, need: int) -> None:
        rest = data[position:]
        if not rest:
            self._pieces, self._marks, self._size, self._need = [], [], 0, 0
            return
        marks = [(max(mark - position, 0), offset) for mark, offset in self._marks if mark > position]
        self._marks = [(0, self._offset(position)), *marks]
        self._pieces, self._size, self._need = [rest], len(rest), need - position

"""What a job leaves behind: rows that were answered, and rows that were not.

Every row is flushed as it is written, so a process that is killed loses none.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from quotaguard.cli.contacts import Contact, FileFault, Lines

__all__ = ["ADDED", "MATCHED", "MISSED", "REASON", "Enriched", "Refused"]

FOUND = ("fullName", "title", "organization", "location", "linkedin")
"""What the provider tells of a person, as far as it fits into a row."""

ADDED = (
    "enriched_name",
    "enriched_title",
    "enriched_organization",
    "enriched_location",
    "enriched_linkedin",
    # The last one: a row that was torn by a crash cannot have it whole.
    "enriched_status",
)
REASON = "refused_reason"

MATCHED, MISSED = "matched", "missed"


class Enriched:
    """The rows that the provider answered, in a file that is only ever added to.

    It begins with what an earlier run left in it: `takes_over` tells which rows.
    known: what was added, by `Contact.who`. added: how many rows in this run.

    Raises:
        FileFault: it cannot be read or written, or another program wrote it.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self._columns = (*columns, *ADDED)
        self._done: Counter[tuple[str, ...]] = Counter()
        self.added = 0
        self.known: dict[str, tuple[str, ...]] = {}
        self._email = [name.strip().casefold() for name in columns].index("email")
        self._file = _opened(path, "a+b")
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def takes_over(self, contact: Contact) -> bool:
        """Whether an earlier run has answered this very row; it counts once."""
        if not self._done[contact.fields]:
            return False
        self._done[contact.fields] -= 1
        return True

    def add(self, contact: Contact, added: tuple[str, ...]) -> None:
        """Write one row, and flush it."""
        _write(self._file, (*contact.fields, *added), self.path)
        self.known[contact.who] = added
        self.added += 1

    def close(self) -> None:
        """Leave the file on the disk."""
        _sync(self._file)
        self._file.close()

    def _take_up(self) -> None:
        self._file.seek(0)
        lines = Lines(self._file, self.path)
        reader = csv.reader(lines, strict=True)
        header = next(reader, None)
        if header is None:
            _write(self._file, self._columns, self.path)
            return
        if tuple(header) != self._columns:
            raise FileFault(
                f"{self.path} has other columns than this run would write; "
                "choose another --output, or move it away"
            )
        end = self._rows(reader, lines)
        if end < self._file.seek(0, os.SEEK_END):
            self._file.truncate(end)
        elif not lines.whole:
            self._file.write(b"\n")
        self._file.flush()

    def _rows(self, reader: Iterator[list[str]], lines: Lines) -> int:
        """Take over whole rows; return the offset at which a torn one begins, or the end."""
        end = lines.offset
        own = len(self._columns) - len(ADDED)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return end
            except (csv.Error, FileFault):
                # Only the last row can be torn, all others have their line end.
                if lines.whole:
                    raise FileFault(
                        f"{self.path}, line {lines.number}: the row is not whole; "
                        "move the file away, or choose another --output"
                    ) from None
                return end
            if len(row) == len(self._columns) and row[-1] in {MATCHED, MISSED}:
                fields, added = tuple(row[:own]), tuple(row[own:])
                self._done[fields] += 1
                self.known[row[self._email].strip().casefold()] = added
                end = lines.offset
            elif lines.whole:
                raise lines.fault("the row is not one that was written here")
            else:
                return end


class Refused:
    """The rows that got no answer, and why. The whole file is new after every run.

    rows: how many there are.

    Until `close` the rows stand in a hidden file beside it, and the old one stays.

    Raises:
        FileFault: it cannot be written.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.rows = 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = _opened(self._partial, "wb")
        _write(self._file, (*columns, REASON), self._partial)

    def add(self, contact: Contact, reason: str) -> None:
        """Write one row, and flush it."""
        _write(self._file, (*contact.fields, reason), self._partial)
        self.rows += 1

    def close(self) -> None:
        """Put the new file into the old one's place, at once."""
        _sync(self._file)
        self._file.close()
        self._partial.replace(self.path)

    def discard(self) -> None:
        """Leave the old file as it is."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def check_ours(path: Path, last: str) -> None:
    """Make sure that *path* may be overwritten: its last column is ours, or it is empty.

    Raises:
        FileFault: it is somebody else's file.
    """
    if not path.exists():
        return
    with _opened(path, "rb") as file:
        header = next(csv.reader(Lines(file, path)), None)
    if header and header[-1] != last:
        raise FileFault(f"{path} exists and is not one of ours; it stays. Choose another name")


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value] # every mode here is binary
    except OSError as error:
        raise FileFault(f"cannot open {path}: {error.strerror}") from None


class _Row:
    """A file for csv.writer: it keeps the one row that was written."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _write(file: BinaryIO, fields: tuple[str, ...], path: Path) -> None:
    row = _Row()
    csv.writer(row, lineterminator="\n").writerow(fields)
    try:
        # One write of one whole row: a crash leaves all of it or the end of the file.
        file.write(row.text.encode(errors="replace"))
        file.flush()
    except OSError as error:
        raise FileFault(f"cannot write {path}: {error.strerror}") from None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

"""CSV files of contacts: read line by line, with faults that say where and what to do."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["Contact", "Contacts", "FileFault", "Lines", "bundled"]

LONGEST_LINE = 1024 * 1024
"""Bytes. A longer line is no contact, and may be a file without any line end."""

EMAIL = "email"


class FileFault(Exception):
    """A file cannot be read or written; the message is for the user as it stands."""


@dataclass(frozen=True, slots=True)
class Contact:
    """One row: its *fields* as they stand in the file, the *email* among them."""

    fields: tuple[str, ...]
    email: str

    @property
    def who(self) -> str:
        """The email as it counts: two spellings of it are one person."""
        return self.email.casefold()


class Lines:
    """The lines of a file in UTF-8, and how far they were read.

    number: of the line that was read last, from 1. offset: bytes read.
    whole: whether that line had its line end.

    Raises:
        FileFault: while it is iterated over: a line is too long, or not UTF-8.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.number = 0
        self.offset = 0
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(LONGEST_LINE + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        self.offset += len(raw)
        self.whole = raw.endswith(b"\n")
        if len(raw) > LONGEST_LINE:
            raise self.fault("the line is longer than 1 MiB; is this a CSV file?")
        if self.number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise self.fault("this is UTF-16; save the file as CSV in UTF-8")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            said = f"byte {error.start + 1} is not UTF-8 (0x{raw[error.start]:02x})"
            raise self.fault(f"{said}; save the file as CSV in UTF-8") from None
        if "\0" in line:
            raise self.fault("a NUL byte; save the file as CSV in UTF-8")
        return line

    def fault(self, what: str, line: int | None = None) -> FileFault:
        """Return the fault that says *what* is wrong with this line, or another one."""
        return FileFault(f"{self._path}, line {line or self.number}: {what}")


class Contacts:
    """A CSV file of contacts, which is never held in memory as a whole.

    columns: the names in its first line; one of them is ``email``, in any case.
    taken: names that the results add, and that the file may not have.

    Raises:
        FileFault: there is no such file, or no email column.
    """

    def __init__(self, path: Path, taken: tuple[str, ...] = ()) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise FileFault(f"{path} is not a regular file, and it is read twice")
        with self._open() as file:
            lines = Lines(file, path)
            self.columns = next(_records(lines), ())
        if not any(name.strip() for name in self.columns):
            raise FileFault(f"{path} is empty; its first line must name the columns")
        names = [name.strip().casefold() for name in self.columns]
        if EMAIL not in names:
            # A semicolon is what a spreadsheet writes in half of Europe.
            told = ", ".join(self.columns)[:60]
            hint = "; separate the columns by commas" if ";" in told else ""
            raise FileFault(f"{path} has no column 'email' (line 1 says: {told}){hint}")
        mine = next((name for name in names if name in taken), None)
        if mine is not None:
            raise FileFault(f"{path} has a column {mine!r}: it is a result, not an input")
        self._email = names.index(EMAIL)

    def rows(self) -> Generator[Contact, None, None]:
        """Read the rows, one by one.

        Raises:
            FileFault: the next row cannot be read.
        """
        with self._open() as file:
            lines = Lines(file, self.path)
            records = _records(lines)
            next(records, None)
            width = len(self.columns)
            for fields in records:
                if len(fields) > width:
                    said = f"{len(fields)} fields, but line 1 names {width}"
                    raise lines.fault(f"{said}; is a comma not quoted?")
                padded = fields + ("",) * (width - len(fields))
                yield Contact(padded, padded[self._email].strip())

    def count(self) -> int:
        """Return the number of contacts, up to a row that cannot be read.

        Raises:
            FileFault: there is no contact at all.
        """
        rows = 0
        try:
            for _ in self.rows():
                rows += 1
        except FileFault:
            if rows:
                # It is told when its turn comes; the rows before it are good.
                return rows
            raise
        if not rows:
            raise FileFault(f"{self.path} is empty below its first line; there are no contacts")
        return rows

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise FileFault(f"cannot read {self.path}: {error.strerror}") from None


def _records(lines: Lines) -> Iterator[tuple[str, ...]]:
    reader = csv.reader(lines, strict=True)
    while True:
        start = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise lines.fault(f"{error}; is a quote never closed?", start) from None
        if fields:
            yield tuple(fields)


def bundled() -> Path:
    """Return the file of made-up people: beside this one in a wheel, else in the checkout."""
    packed = Path(__file__).with_name("contacts.csv")
    return packed if packed.exists() else Path(__file__).parents[2] / "examples" / packed.name

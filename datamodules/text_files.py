"""Text files, read with errors that name the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlkit.text import lines_of


def read_text(path: Path) -> str:
    """A UTF-8 file, plain or gzipped.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it is damaged, or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: put it there, or name another place (--data.root, DLKIT_DATA, or what names "
            f"this file itself)"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): get it again") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} line {line} is not UTF-8 (byte 0x{content[error.start]:02x}): convert the file, such as by "
            f"iconv -f latin1 -t utf-8"
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file, without their ends; see `read_text`."""
    return lines_of(read_text(path))


def read_labelled(path: Path) -> tuple[list[str], list[str]]:
    """Texts and their labels: of a `.csv` or `.tsv` the columns `text` and `label`; of any other file, a line each, the label
    first, then a blank, then the text.

    Returns:
        The texts and the labels, in the file's order; lines that are empty are passed over.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a line without a text or a label, a table without these columns, or one that cannot be read.
    """
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    texts: list[str] = []
    labels: list[str] = []
    if suffix in (".csv", ".tsv"):
        # A tab-separated file has no quotes: one in a text is a mark like any other.
        style: Any = {"delimiter": ","} if suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        table = csv.DictReader(io.StringIO(read_text(path)), **style)
        absent = {"text", "label"} - set(table.fieldnames or ())
        if absent:
            raise ValueError(f"{path} has no column {' and no column '.join(sorted(absent))}: its first line names the columns")
        rows = table_rows(path, table)
    else:
        rows = (
            (number, label, text)
            for number, line in enumerate(read_lines(path), 1)
            if line.strip()
            for label, text in [(*line.strip().split(maxsplit=1), "")[:2]]
        )
    for number, label, text in rows:
        if not label or not text:
            missing = "text" if label else "label"
            raise ValueError(f"{path} line {number} has no {missing}: give it one, or remove the line")
        texts.append(text)
        labels.append(label)
    if not texts:
        raise ValueError(f"{path} holds no texts: give at least one line")
    return texts, labels


def table_rows(path: Path, table: csv.DictReader[str]) -> Iterator[tuple[int, str, str]]:
    """Line, label and text of each row.

    Raises:
        ValueError: a row that the format does not allow.
    """
    try:
        for row in table:
            if None in row:  # where the reader puts what has no column
                raise ValueError(f"{path} line {table.line_num} has more cells than its head: put text with commas in quotes")
            yield table.line_num, (row["label"] or "").strip(), (row["text"] or "").strip()
    except csv.Error as error:
        raise ValueError(f"{path} line {table.line_num} cannot be read ({error}): mend it") from error

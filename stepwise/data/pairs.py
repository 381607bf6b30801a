"""Folders of images with a caption for each: a table of file names and texts beside the images."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stepwise.data import folder, splits, tree
from stepwise.data.images import DataError, Images, MissingDataError, plural, printable, require
from stepwise.data.listing import Listing
from stepwise.data.picture import Reading
from stepwise.data.tree import join_names

Row = tuple[int, str, str]
"""Line number, file name and caption of a row."""
TABLES = (
    "captions.csv",
    "captions.tsv",
    "captions.jsonl",
    "captions.txt",
    "metadata.csv",
    "metadata.jsonl",
)
"""Names of the table; the last two are those of Hugging Face's imagefolder."""
LONGEST = 1024
"""Length from which a text is no file name."""
FILE = ("file_name", "file", "filename", "image", "path")
"""Names of the column of files, relative to the folder."""
TEXT = ("caption", "text", "title")
"""Names of the column of captions."""


def load(
    path: Path, split: str, limit: int | None, size: int | None, seed: int, reading: Reading
) -> Images:
    """Read the images that a table of captions names, with their captions.

    The table is a file of `TABLES` in the folder, or in its sub-folder of the split's name: comma
    separated with a header and quotes where a text has a comma, tab separated with a header and no
    quotes, one JSON object a line, or (captions.txt) a file name, a tab and a caption on each line.
    If the files of a table in the folder itself lie in sub-folders that are splits, such as train
    and test, its rows are divided by them. An image with several captions is as many pairs. Rows
    without a caption are left out, which a note says. Files are read as `folder.load` does.

    Raises:
        DataError: if the table lacks a column, a row cannot be read, or an image is damaged or
            missing; the message names the line or the file.
        MissingDataError: if there is no table, or it has no files of the split.
    """
    top, table = _find(path, split)
    whole = list(_rows(table))
    paths = {line: _inside(table, top, line, file) for line, file, text in whole if text}
    every = _of_split(table, whole, split) if top == path else whole
    rows = [row for row in every if row[2]]
    require(len(rows) > 0, printable(table), "a row with a file and a caption", "none")
    files = [paths[line] for line, *_ in rows]
    missing = [printable(file) for file in files if not file.is_file()]
    expected = "files that exist"
    received = f"{len(missing)} that do not: {join_names(missing, 5)}"
    require(not missing, printable(table), expected, received)
    listing = Listing(top, files, None, (), Counter())
    pixels, kept, notes = folder.read(listing, limit, size, seed, reading)
    if len(every) > len(rows):
        left_out = plural(len(every) - len(rows), "row")
        notes = (*notes, f"left out: {left_out} without a caption")
    captions = tuple(rows[i][2] for i in kept)
    return Images(pixels, None, (), f"pairs:{printable(top)}", notes, captions)


def _find(path: Path, split: str) -> tuple[Path, Path]:
    """Return the folder of a split and its table."""
    if not path.is_dir():
        received = "a file" if path.is_file() else "a path that does not exist"
        raise MissingDataError(
            f"{printable(path)}: expected a folder of images and a table of captions, received "
            f"{received}"
        )
    plain = split not in ("", ".", "..") and not {"/", "\\"} & set(split)
    require(plain, "split", "the name of a sub-folder", repr(printable(split)))
    named = [(splits.canonical(split), filler) for filler in splits.FILLERS]
    folders = tree.sub_folders(path)
    inner = [each for each in folders if each == split or splits.split_of(each) in named]
    tables = [
        (top, top / each)
        for top in (path, *(path / each for each in inner))
        for each in TABLES
        if (top / each).is_file()
    ]
    received = ", ".join(printable(table.relative_to(path)) for _, table in tables)
    require(len(tables) < 2, printable(path), "one table of captions", received)
    if tables:
        return tables[0]
    place = printable(path if split == "train" else path / split)
    known = ", ".join(TABLES)
    raise MissingDataError(f"{place}: expected a table of captions ({known}), received none")


def _of_split(table: Path, rows: list[Row], split: str) -> list[Row]:
    """Return the rows of a split: those of its sub-folders, or all for train without splits."""
    tops = {file: Path(file).parts[:-1][:1] for _, file, _ in rows}
    by_split = splits.find({top[0] for top in tops.values() if top})
    name = splits.canonical(split)
    if name not in by_split and (by_split or name != "train"):
        names = ", ".join(sorted(by_split)) or "no sub-folders that are splits"
        expected = f"files of the split {split!r}"
        raise MissingDataError(f"{printable(table)}: expected {expected}, received {names}")
    if not by_split:
        return rows
    return [row for row in rows if tops[row[1]] and tops[row[1]][0] in by_split[name]]


def _rows(table: Path) -> Iterator[Row]:
    """Yield line number, file name and caption of each row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if table.suffix == ".jsonl":
                yield from _json_rows(table, lines)
            elif table.suffix == ".txt":
                yield from _tab_rows(table, lines)
            else:
                yield from _csv_rows(table, lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(table)}: expected text in UTF-8, received {error}") from error
    except csv.Error as error:
        raise DataError(f"{printable(table)}: expected a table, received {error}") from error


def _csv_rows(table: Path, lines: Iterable[str]) -> Iterator[Row]:
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.DictReader(lines, strict=True, **(tabs if table.suffix == ".tsv" else {}))
    columns = [_column(table, reader.fieldnames or (), names) for names in (FILE, TEXT)]
    for row in reader:
        place = f"{printable(table)}, line {reader.line_num}"
        expected = f"{len(reader.fieldnames or ())} fields, with quotes around a text with commas"
        received = f"{len(row) - 1 + len(row.get(None) or ())}"
        require(None not in row, place, expected, received)
        file, text = ((row[column] or "").strip() for column in columns)
        expected = "a caption on one line; check the quotes above it"
        require("\n" not in text, place, expected, repr(printable(text[:60])))
        yield reader.line_num, file, text


def _json_rows(table: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        place = f"{printable(table)}, line {number}"
        require(isinstance(row, dict), place, "a JSON object", printable(line.strip()[:60]))
        columns = [_column(table, tuple(row), names) for names in (FILE, TEXT)]
        file, text = ("" if row[column] is None else row[column] for column in columns)
        for value in (file, text):
            fits = isinstance(value, str)
            require(fits, place, "a file and a caption that are texts", printable(repr(value)[:60]))
        yield number, file.strip(), text.strip()


def _tab_rows(table: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file, tab, text = line.partition("\t")
        place = f"{printable(table)}, line {number}"
        require(tab != "", place, "a file name, a tab and a caption", printable(line.strip()[:60]))
        yield number, file.strip(), text.strip()


def _column(table: Path, columns: Sequence[str], names: tuple[str, ...]) -> str:
    """Return the first of the names that is a column."""
    present = [name for name in names if name in columns]
    twice = [name for name in present if list(columns).count(name) > 1]
    expected = "columns of different names"
    require(not twice, printable(table), expected, f"{', '.join(twice)} more than once")
    received = ", ".join(map(printable, columns)) or "none"
    require(len(present) > 0, printable(table), f"a column {' or '.join(names)}", received)
    return present[0]


def _inside(table: Path, top: Path, line: int, file: str) -> Path:
    """Return the path of a file, which must lie in the folder."""
    path = Path(file)
    fits = file != "" and not path.is_absolute() and ".." not in path.parts and len(file) < LONGEST
    place = f"{printable(table)}, line {line}"
    expected = "a file inside the folder, relative to it"
    require(fits, place, expected, repr(printable(file[:60])))
    return top / path

"""CIFAR-10 and STL-10 in their official binary layouts, memory-mapped."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from stepwise.data.download import Archive, locate
from stepwise.data.images import Images, MissingDataError, fit_all, require, require_split, subset

CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    members=(*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
)
STL10 = Archive(
    url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    md5="91f7769df0f17e558f3565bffb0c7dfb",
    folder="stl10_binary",
    members=(
        "train_X.bin",
        "train_y.bin",
        "test_X.bin",
        "test_y.bin",
        "unlabeled_X.bin",
        "class_names.txt",
    ),
)
CLASSES = 10
# Number of records in the official files. Shorter files are accepted too, for development, if their
# lengths are consistent.
CIFAR10_RECORDS = 10_000
STL10_RECORDS = {"train": 5_000, "test": 8_000, "unlabeled": 100_000}


def cifar10(
    root: Path | None, split: str, limit: int | None, size: int | None, seed: int
) -> Images:
    """Load CIFAR-10, 32 x 32 px: 50,000 training images in five files, 10,000 test images in one.

    A record is 1 label byte and 3,072 pixel bytes, [channel, row, column]. The whole test set is a
    memory-mapped view of its file. The whole training set, 150 MB, is copied into memory, because
    five files cannot share one map. For a subset, only its rows are read.

    A file may hold any whole number of records; the five training files must hold the same number.

    Raises:
        DataError: if a file has an incomplete record, fewer records than the longest training file,
            or a label above 9. The message states the bytes or records expected and received.
        MissingDataError: if a file does not exist.
    """
    require_split("cifar10", split, ("train", "test"))
    folder = locate(CIFAR10, root)
    names = CIFAR10.members[:5] if split == "train" else CIFAR10.members[5:6]
    files = [_records(folder / name, 3073, CIFAR10_RECORDS) for name in names]
    most = max(map(len, files))
    for name, records in zip(names, files, strict=True):
        expected = f"{most:,} records of 3,073 bytes, as in the longest of the five"
        require(len(records) == most, folder / name, expected, f"{len(records):,}")
    keep = subset(most * len(files), limit, seed)
    labels = _gather([records[:, 0] for records in files], keep)
    _require_labels([folder / name for name in names], most, keep, labels, 0)
    pixels = _gather(
        [records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for records in files], keep
    )
    class_names = _class_names(folder / "batches.meta.txt")
    labels = np.array(labels, np.int32)
    return Images(fit_all(pixels, size), labels, class_names, f"cifar10/{split} in {folder}")


def stl10(root: Path | None, split: str, limit: int | None, size: int | None, seed: int) -> Images:
    """Load STL-10, 96 x 96 px: 5,000 training, 8,000 test and 100,000 unlabeled images (2.7 GB).

    A record is 27,648 pixel bytes, [channel, column, row]. A separate file holds the labels 1 to
    10, one byte each; they are returned as 0 to 9. A whole set is a memory-mapped view of its file;
    for a subset, only its rows are read. A file may hold any whole number of records.

    Raises:
        DataError: if a file has an incomplete record, a label is out of range, or the numbers of
            labels and images differ. The message states the bytes or records expected and received.
        MissingDataError: if a file does not exist.
    """
    require_split("stl10", split, STL10_RECORDS)
    folder = locate(STL10, root)
    file = folder / f"{split}_X.bin"
    records = _records(file, 3 * 96 * 96, STL10_RECORDS[split])
    keep = subset(len(records), limit, seed)
    labels = None
    if split != "unlabeled":
        label_file = folder / f"{split}_y.bin"
        all_labels = _records(label_file, 1, STL10_RECORDS[split])[:, 0]
        expected = f"{len(records):,} labels, one for each image of {file.name}"
        require(len(all_labels) == len(records), label_file, expected, f"{len(all_labels):,}")
        _require_labels([label_file], len(records), np.arange(len(records)), all_labels, 1)
        labels = np.array(all_labels[keep], np.int32) - 1
    pixels = _gather([records.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)], keep)
    class_names = _class_names(folder / "class_names.txt")
    return Images(fit_all(pixels, size), labels, class_names, f"stl10/{split} in {folder}")


def _records(path: Path, width: int, official: int) -> UInt8[np.ndarray, "n width"]:
    """Map a file of records of `width` bytes, read-only."""
    if not path.is_file():
        raise MissingDataError(
            f"{path}: expected {official:,} records of {width:,} bytes, "
            f"received {_describe_missing(path)}"
        )
    length = path.stat().st_size
    require(
        length > 0 and length % width == 0,
        path,
        f"a whole number of {width:,}-byte records (officially {official:,} in "
        f"{official * width:,} bytes)",
        f"{length:,} bytes, {length // width:,} records and {length % width:,} bytes more",
    )
    return np.memmap(path, np.uint8, "r").reshape(-1, width)


def _gather(
    parts: list[np.ndarray], keep: Int[np.ndarray, " kept"]
) -> UInt8[np.ndarray, "kept *rest"]:
    """Return rows `keep` (ascending) of the concatenated parts.

    All rows of a single part are returned as a view.
    """
    if len(parts) == 1 and len(keep) == len(parts[0]):
        return parts[0]
    out = np.empty((len(keep), *parts[0].shape[1:]), np.uint8)
    start = 0
    for part in parts:
        first, last = np.searchsorted(keep, (start, start + len(part)))
        out[first:last] = part[keep[first:last] - start]
        start += len(part)
    return out


def _require_labels(
    files: list[Path], file_records: int, keep: np.ndarray, labels: np.ndarray, low: int
) -> None:
    """Raise DataError for the first label outside low ... low + 9, naming its file and record."""
    wrong = np.flatnonzero((labels < low) | (labels >= low + CLASSES))
    if wrong.size:
        file, record = divmod(int(keep[wrong[0]]), file_records)
        received = f"{labels[wrong[0]]} in record {record:,} (counted from 0)"
        require(False, files[file], f"labels {low} to {low + CLASSES - 1}", received)


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise MissingDataError(
            f"{path}: expected {CLASSES} class names, one per line, "
            f"received {_describe_missing(path)}"
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    require(len(names) == CLASSES, path, f"{CLASSES} class names, one per line", f"{len(names)}")
    return names


def _describe_missing(path: Path) -> str:
    return "a folder" if path.is_dir() else "a path that does not exist"

"""Sub-folders that are splits: train, val and test under the names that common tools write."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stepwise.data import opening, tree
from stepwise.data.images import DataError, MissingDataError, printable, require

SPLITS = ("train", "val", "test")
WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
}
"""Name of a split, in lower case, to the split."""
FILLERS = ("", "set", "data", "split", "dataset", "images", "imgs")
"""What may stand beside a split's name even in the name of an only split: train_set."""

UNLABELED = ("unlabeled", "unlabelled")
"""Names of further images of a data set, beside its split train; they are no class."""
IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages"})
MASKS = frozenset({
    "masks", "mask", "labels", "annotations", "gt", "ground_truth", "groundtruth",
    "segmentationclass", "segmentationobject",
})  # fmt: skip
"""Names, in lower case, of the two folders of a data set for segmentation; they are no classes."""


def split_of(name: str) -> tuple[str, str] | None:
    """Return the split that a folder's name names and the rest of the name, or None.

    `Training_Set` is the split train with the rest "set"; `val2017` is val with the rest "2017".
    Splits that belong together have the same rest.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # trainA, TestSet
    words = re.findall(r"[^\W\d_]+|\d+", spaced.lower())
    places = [i for i, word in enumerate(words) if word in WORDS]
    if len(words) == 1 and not places:  # trainset, testdata
        match = re.fullmatch(f"({'|'.join(WORDS)})({'|'.join(FILLERS)})", words[0])
        return (WORDS[match[1]], match[2]) if match else None
    if len(places) != 1:
        return None
    return WORDS[words[places[0]]], " ".join(words[: places[0]] + words[places[0] + 1 :])


def find(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the folders of each split, if at least two splits are among these names.

    Names count together if they differ in nothing but the split; bullet_train and crash_test are
    no splits. If there are several such sets, as in train_1, test_1, train_2, test_2, a split has
    several folders.
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names):
        match = split_of(name)
        if match:
            rest = "" if match[1] in FILLERS else match[1]
            groups[rest][match[0]].append(name)
    splits: dict[str, list[str]] = defaultdict(list)
    for group in groups.values():
        for split, folders in group.items() if len(group) > 1 else ():
            splits[split] += folders
    return dict(splits)


def canonical(split: str) -> str:
    """Return train, val or test for a name of a split in any case, and another name unchanged."""
    return WORDS.get(split.lower(), split)


def choose(path: Path, split: str) -> Path:
    """Return the sub-folder of a split; a folder without splits counts as train.

    Args:
        path: the folder.
        split: train, val or test, or the name of one of the sub-folders that are splits.

    Raises:
        MissingDataError: if the folder lacks the split.
        DataError: if two sub-folders claim to be the split, or if it is unclear whether the
            sub-folders are splits or classes.
    """
    name, split = split, canonical(split)
    names = tree.sub_folders(path)
    splits = find(names) or _only_split(path, names)
    if not splits:
        _require_no_split(path, names)
        if split != "train":
            raise MissingDataError(
                f"{printable(path)}: expected a sub-folder {split!r}, received a folder without "
                "splits, which counts as 'train'"
            )
        return path
    if split not in splits:
        present = sorted(name for group in splits.values() for name in group)
        raise MissingDataError(
            f"{printable(path)}: expected a sub-folder {split!r}, received the splits {present}"
        )
    if name in splits[split]:
        return path / name
    folders = {(path / each).resolve(): each for each in splits[split]}  # links lead to one place
    received = " and ".join(folders.values())
    place = f"folder:{printable(path / splits[split][0])}"
    known = all(canonical(each) in SPLITS for each in splits[split])
    way_out = f"{received}; pass {'one of these names as the split' if known else place}"
    require(
        len(folders) == 1,
        printable(path),
        f"one sub-folder for the split {split!r}",
        way_out,
    )
    return path / next(iter(folders.values()))


def require_one_level(top: Path, files: list[tree.Parts]) -> None:
    """Raise DataError if a folder below `top` is divided into splits, which would be mixed.

    The same holds for images beside masks.
    """
    _require_no_masks(top, files)
    inner: dict[tree.Parts, set[str]] = defaultdict(set)
    for parts in files:
        for depth in range(1, len(parts) - 1):
            inner[parts[:depth]].add(parts[depth])
    for parts, names in sorted(inner.items()):
        splits = find(names)
        if splits:
            place, name = printable(top), printable("/".join(parts))
            received = sorted(each for group in splits.values() for each in group)
            raise DataError(
                f"{place}: expected splits directly in the folder, received {received} in its "
                f"sub-folder {name}; pass folder:{place}/{name}"
            )


def holds_images(folder: Path) -> bool:
    """Return whether a folder holds an image at any depth."""
    return any(opening.is_image(folder.joinpath(*parts)) for parts in tree.walk(folder).files)


def _only_split(path: Path, names: list[str]) -> dict[str, list[str]]:
    """Return the folders of the split that all sub-folders with images are of, if there is one."""
    matches = {name: split_of(name) for name in names}
    if not any(match and match[1] in FILLERS for match in matches.values()):
        return {}
    splits: dict[str, list[str]] = defaultdict(list)
    for name, match in matches.items():
        if match and match[1] in FILLERS:
            splits[match[0]].append(name)
        elif name.lower() not in UNLABELED and holds_images(path / name):
            return {}
    return dict(splits)


def _require_no_split(path: Path, names: list[str]) -> None:
    """Raise DataError if a split stands beside a folder with the same classes."""
    known = [name for name in names if (split_of(name) or ("", "-"))[1] in FILLERS]
    for name in known:
        classes = set(tree.sub_folders(path / name))
        for other in names:
            same = classes & set(tree.sub_folders(path / other)) if other != name else set()
            if len(same) > 1:
                place = printable(path)
                raise DataError(
                    f"{place}: expected splits called {', '.join(SPLITS)}, received {name!r} "
                    f"beside {printable(other)!r}, both with {', '.join(sorted(same)[:3])}; rename "
                    f"the second, or pass folder:{place}/{name}"
                )


def _require_no_masks(top: Path, files: list[tree.Parts]) -> None:
    """Raise DataError if masks would become a class beside the images that they belong to."""
    names = {parts[0].lower(): parts[0] for parts in files if len(parts) > 1}
    images, masks = sorted(IMAGES & set(names)), sorted(MASKS & set(names))
    if images and masks:
        place, received = printable(top), [names[each] for each in (*images, *masks)]
        raise DataError(
            f"{place}: expected classes as sub-folders, received images and their masks: "
            f"{received}; pass folder:{place}/{received[0]}"
        )

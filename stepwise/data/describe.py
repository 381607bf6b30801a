"""Descriptions of a set of images, which need no decoding of a folder's files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stepwise.data.folder import read_headers
from stepwise.data.images import Images, plural
from stepwise.data.listing import count_reasons, list_images
from stepwise.data.picture import Reading


@dataclass(frozen=True)
class Description:
    """What a set of images holds.

    Attributes:
        source: where the images come from.
        count: number of images.
        sizes: number of images of each size (height, width), in px.
        channels: number of channels.
        classes: number of images of each class; None without labels.
        notes: sentences about what would be changed or left out.
        skipped: number of files and folders that were left out.
        reasons: why they were left out.
    """

    source: str
    count: int
    sizes: Counter[tuple[int, int]]
    channels: int
    classes: dict[str, int] | None
    notes: tuple[str, ...] = ()
    skipped: int = 0
    reasons: str = ""

    def __str__(self) -> str:
        """Return the description in lines of text; the last one counts what was left out."""
        low, high = min(self.sizes), max(self.sizes)
        lines = [self.source]
        if len(self.sizes) == 1:
            size = f"{low[0]} x {low[1]} px"
        else:
            size = (
                f"{len(self.sizes)} sizes from {low[0]} x {low[1]} to {high[0]} x {high[1]} px "
                "(height x width)"
            )
        lines.append(f"{plural(self.count, 'image')} of {size}, {self.channels} channels")
        if self.classes is not None:
            counts = Counter(self.classes).most_common()
            largest = ", ".join(f"{name} {count}" for name, count in counts[:5])
            title = plural(len(counts), "class", "classes")
            lines.append(f"{title}: {largest}{', ...' if len(counts) > 5 else ''}")
        lines += self.notes
        reasons = f": {self.reasons}" if self.skipped else ""
        return "\n".join([*lines, f"{self.count} read, {self.skipped} skipped{reasons}"])


def describe_images(images: Images) -> Description:
    """Describe images that are loaded."""
    height, width, channels = images.pixels.shape[1:]
    classes = None
    if images.labels is not None:
        classes = Counter(images.class_names[label] for label in images.labels.tolist())
    sizes = Counter({(height, width): len(images)})
    return Description(images.source, len(images), sizes, channels, classes, images.notes)


def describe_folder(path: Path, split: str, size: int | None, reading: Reading) -> Description:
    """Describe a folder from its names and the first bytes of its files.

    Raises:
        DataError, MissingDataError: as in `folder.load`, but not for damage inside images.
    """
    listing = list_images(path, split, skip_unreadable=reading.skip_damaged)
    headers, damaged = read_headers(listing, reading)
    sizes: Counter[tuple[int, int]] = Counter()
    classes: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    more = 0
    for index, header in headers.items():
        pages = len(header.frames)
        count = pages if reading.frames == "all" else 1
        sizes[header.shape if size is None else (size, size)] += count
        if listing.labels is not None:
            classes[listing.class_names[listing.labels[index]]] += count
        if header.transparent:
            notes["with transparency, which is put on a background (--background)"] += count
        if header.deep and reading.depth is None:
            notes[f"with more than 8 bits per channel, which needs --depth: {header.deep}"] += count
        if pages > count:
            more += pages - 1
    lines = [f"{plural(count, 'image')} {text}" for text, count in notes.items()]
    if more:
        pages_or_frames = plural(more, "further page or frame", "further pages or frames")
        lines.append(f"{pages_or_frames} not read; --frames all reads them")
    skipped = listing.skipped.copy()
    if damaged:
        skipped["damaged"] = len(damaged)
    return Description(
        listing.source,
        sizes.total(),
        sizes,
        3,
        None if listing.labels is None else classes,
        tuple(lines),
        skipped.total(),
        count_reasons(skipped),
    )

"""Official archives: located on disk, or downloaded, verified and unpacked atomically."""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from stepwise import _files
from stepwise.data.images import DataError, MissingDataError, require


@dataclass(frozen=True)
class Archive:
    """A .tar.gz archive: its URL, its MD5, the folder it unpacks to and the files to extract."""

    url: str
    md5: str
    folder: str
    members: tuple[str, ...]

    @property
    def filename(self) -> str:
        """The archive's file name, the last part of its URL."""
        return self.url.rpartition("/")[2]


def cache() -> Path:
    """Return the folder for downloads: STEPWISE_CACHE if it is set, or else the user's cache."""
    import pooch  # imported here and below because only downloads need it

    return Path(os.environ.get("STEPWISE_CACHE") or pooch.os_cache("stepwise")).expanduser()


def locate(archive: Archive, root: Path | None) -> Path:
    """Return the folder of the archive's files, after downloading and unpacking them if necessary.

    With a root, the folder is the root itself, its sub-folder `archive.folder`, or that sub-folder
    after verifying and unpacking an archive in the root. Without a root, it is a sub-folder of the
    cache, downloaded from the archive's URL if it does not exist.

    A folder appears complete or not at all. Concurrent processes wait for the first one, and the
    next call removes what a killed process left behind.

    Raises:
        MissingDataError: if the root has neither the files nor the archive.
        DataError: if the download fails, the checksum differs, or the archive is damaged.
    """
    base = cache() if root is None else root
    folder = base / archive.folder
    if folder.is_dir():
        return folder
    packed = base / archive.filename
    if root is not None:
        if any((root / member).is_file() for member in archive.members):
            return root
        if not packed.is_file():
            expected = (
                f"{archive.folder}/, its files ({archive.members[0]}, ...) or {archive.filename}"
            )
            raise MissingDataError(f"{root}: expected {expected}, received none of them")
    with _scratch(base, archive.folder) as scratch:
        if not folder.is_dir():
            if root is None:
                packed = _download(archive, scratch)
            else:
                import pooch

                checksum = pooch.file_hash(str(packed), alg="md5")
                require(checksum == archive.md5, packed, f"MD5 {archive.md5}", checksum)
            _unpack(packed, archive, scratch).rename(folder)
    return folder


@contextmanager
def _scratch(base: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder that no other process uses, and remove it afterwards."""
    base.mkdir(parents=True, exist_ok=True)
    scratch = base / f".{name}.partial"
    # The system releases the lock when a process dies, so an existing scratch folder is abandoned.
    with _files.locked(base / f".{name}.lock"):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _download(archive: Archive, folder: Path) -> Path:
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20)
    try:
        known_hash = f"md5:{archive.md5}"
        return Path(
            pooch.retrieve(archive.url, known_hash, archive.filename, folder, downloader=downloader)
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{archive.url}: expected an archive of MD5 {archive.md5}, received an error: {error}"
        ) from error


def _unpack(packed: Path, archive: Archive, folder: Path) -> Path:
    """Unpack the needed files; raise DataError for any member that leads out of the folder."""
    missing = {f"{archive.folder}/{member}" for member in archive.members}
    try:
        with tarfile.open(packed, "r:gz") as tar:
            for member in tqdm(
                tar, f"unpacking {packed.name}", delay=2, unit=" files", leave=False
            ):
                _require_inside(packed, member)
                name = str(PurePosixPath(member.name))
                # extractfile returns None for a folder
                content = tar.extractfile(member) if name in missing else None
                if content is not None:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with content, (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    missing.remove(name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{packed}: expected a complete .tar.gz archive, received an error: {error}"
        ) from error
    require(not missing, packed, f"the files {sorted(missing)}", "an archive without them")
    return folder / archive.folder


def _require_inside(packed: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    problem = ""
    if member.issym() or member.islnk():
        problem = f"a link {member.name!r} to {member.linkname!r}"
    elif not (member.isreg() or member.isdir()):
        problem = f"a device or pipe {member.name!r}"
    elif path.is_absolute() or ".." in path.parts:
        problem = f"a path {member.name!r} that leads out of it"
    require(not problem, packed, "plain files and folders inside the archive's own folder", problem)

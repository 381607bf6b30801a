"""Official archives: found, or downloaded, checked and unpacked, all of it or nothing."""

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
    """A .tar.gz archive: its address and MD5, the folder it unpacks to, and the files wanted of
    it."""

    url: str
    md5: str
    folder: str
    members: tuple[str, ...]

    @property
    def filename(self) -> str:
        """The archive's own name, the last part of its address."""
        return self.url.rpartition("/")[2]


def cache() -> Path:
    """Name the folder for downloads: STEPWISE_CACHE of the environment, or else the user's
    cache."""
    import pooch  # here and below: only downloads need it

    return Path(os.environ.get("STEPWISE_CACHE") or pooch.os_cache("stepwise")).expanduser()


def locate(archive: Archive, root: Path | None) -> Path:
    """Return the folder that holds the archive's files, unpacked or downloaded first where need be.

    With a root: the root itself, its sub-folder of the archive's name, or the archive lying in it,
    checked and unpacked there. Without: the cache, filled from the archive's address. A folder
    appears whole or not at all, processes that want the same one wait for the first, and what a
    killed one left behind goes with the next call. Raises MissingDataError where a root has
    neither, DataError for a download that fails, a checksum or an archive that is not as it should
    be.
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
            wanted = (
                f"{archive.folder}/, its files ({archive.members[0]}, ...) or {archive.filename}"
            )
            raise MissingDataError(f"{root}: expected {wanted}, found none of them")
    with _scratch(base, archive.folder) as scratch:
        if not folder.is_dir():
            if root is None:
                packed = _download(archive, scratch)
            else:
                import pooch

                found = pooch.file_hash(str(packed), alg="md5")
                require(found == archive.md5, packed, f"MD5 {archive.md5}", found)
            _unpack(packed, archive, scratch).rename(folder)
    return folder


@contextmanager
def _scratch(base: Path, name: str) -> Iterator[Path]:
    """Give an empty folder that no other process has, and remove it afterwards."""
    base.mkdir(parents=True, exist_ok=True)
    scratch = base / f".{name}.partial"
    # The system releases the lock when a process dies, so a scratch folder found here is nobody's.
    with _files.locked(base / f".{name}.lock"):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _download(archive: Archive, into: Path) -> Path:
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20)
    try:
        known_hash = f"md5:{archive.md5}"
        return Path(
            pooch.retrieve(archive.url, known_hash, archive.filename, into, downloader=downloader)
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{archive.url}: expected an archive of MD5 {archive.md5}, found: {error}"
        ) from error


def _unpack(packed: Path, archive: Archive, into: Path) -> Path:
    """Unpack the files wanted, looking at every member first."""
    wanted = {f"{archive.folder}/{member}" for member in archive.members}
    try:
        with tarfile.open(packed, "r:gz") as tar:
            for member in tqdm(
                tar, f"unpacking {packed.name}", delay=2, unit=" files", leave=False
            ):
                _require_inside(packed, member)
                name = str(PurePosixPath(member.name))
                content = tar.extractfile(member) if name in wanted else None  # none of a folder
                if content is not None:
                    (into / name).parent.mkdir(parents=True, exist_ok=True)
                    with content, (into / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    wanted.remove(name)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{packed}: expected a whole .tar.gz archive, found: {error}") from error
    require(not wanted, packed, f"the files {sorted(wanted)}", "an archive without them")
    return into / archive.folder


def _require_inside(packed: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    found = ""
    if member.issym() or member.islnk():
        found = f"a link {member.name!r} to {member.linkname!r}"
    elif not (member.isreg() or member.isdir()):
        found = f"a device or pipe {member.name!r}"
    elif path.is_absolute() or ".." in path.parts:
        found = f"a path {member.name!r} that leads out of it"
    require(not found, packed, "plain files and folders inside the archive's own folder", found)

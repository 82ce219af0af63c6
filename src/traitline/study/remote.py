"""A run directory in an object store: files by name, each there whole or not at all.

Knows how fsspec is asked: `s3://`, `gs://`, `memory://`, `file://` and whatever else it has a package for. Credentials are
fsspec's own matter, from the environment. Leaves which files are exchanged, and when, to `mirror.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from fsspec.core import url_to_fs

from traitline.errors import InputError, StoreError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> the extra of this package that installs what fsspec needs for it."""
PUT_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "memory"}
"""Where an object that is put appears whole. Elsewhere it is put under another name and moved."""


def is_url(out: str | os.PathLike[str]) -> bool:
    """Tell a URL from a path."""
    return "://" in str(out)


class Remote:
    """The files below one URL.

    Args:
        url: of the run directory.

    Raises:
        InputError: no such protocol, a package that it needs is not installed, or a password in the URL.
        StoreError: the store cannot be reached (by any method, too).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.password:
            raise InputError("a password in the URL of a run would be shown in messages; put it where fsspec finds it itself")
        self.url = url.rstrip("/")
        self.protocol = parts.scheme
        try:
            self._files, root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(self.protocol)
            how = f"pip install 'traitline[{extra}]'" if extra else "install it"
            raise InputError(f"{url!r} needs a package that is not installed ({error}); {how}") from error
        except ValueError as error:
            known = ", ".join(f"{name}://" for name in ("s3", "gs", "file", "memory") if name in fsspec.available_protocols())
            raise InputError(f"{url!r} is no place that fsspec knows ({error}); use a folder, or one of {known}") from error
        except Exception as error:
            raise StoreError(self._trouble("be reached", error)) from error
        self._root = str(root).rstrip("/")

    def names(self, under: str = "") -> dict[str, int]:
        """Return name -> size in bytes of all files below a folder."""
        with self._reported("be listed"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._path(under) if under else self._root, detail=True)
            except FileNotFoundError:
                return {}
        inside = len(self._root) + 1
        sizes = {str(path)[inside:]: int(info.get("size") or 0) for path, info in found.items()}
        return {name: size for name, size in sizes.items() if not name.endswith(".partial")}

    def get(self, name: str, path: Path) -> bool:
        """Fetch a file; it takes its name when all of it is there. Returns whether there was one."""
        partial: str | None = None
        with self._reported("be read"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
                os.close(handle)
                self._files.get_file(self._path(name), partial)
                os.chmod(partial, 0o644)
                os.replace(partial, path)
            except FileNotFoundError:
                return False
            finally:
                if partial is not None:
                    with contextlib.suppress(OSError):
                        os.unlink(partial)
        return True

    def put(self, path: Path, name: str) -> None:
        """Put a file; whoever looks sees the old one or all of the new one."""
        with self._reported("be written"):
            if self.protocol in PUT_WHOLE:
                self._files.put_file(str(path), self._path(name))
                return
            aside = self._aside(name)
            self._files.put_file(str(path), aside)
            self._files.mv(aside, self._path(name))

    def read(self, name: str) -> bytes | None:
        """Return what a small file holds; None where there is none."""
        with self._reported("be read"):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, as `put`."""
        with self._reported("be written"):
            if self.protocol in PUT_WHOLE:
                self._files.pipe_file(self._path(name), content)
                return
            aside = self._aside(name)
            self._files.pipe_file(aside, content)
            self._files.mv(aside, self._path(name))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are left out."""
        paths = [self._path(name) for name in names]
        if not paths:
            return
        with self._reported("be written"):
            try:
                self._files.rm(paths)
            except FileNotFoundError:
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        self._files.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _aside(self, name: str) -> str:
        """Return the name under which a file is put before it takes its own, in a folder that is there."""
        folder, _, last = self._path(name).rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        return f"{folder}/.{last}.{os.getpid()}-{os.urandom(4).hex()}.partial"

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # every file system has errors of its own
            raise StoreError(self._trouble(what, error)) from error

    def _trouble(self, what: str, error: Exception) -> str:
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        return (
            f"{self.url!r} cannot {what} ({type(error).__name__}: {said}). Check the bucket's name, the network, and the "
            "credentials in the environment; what is finished is kept, and the same command goes on from there"
        )

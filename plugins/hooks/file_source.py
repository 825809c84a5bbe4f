"""Where the bytes of legacy files are: a folder, an object store or a web server, always below one configured root.

MIGRATION_FILES_URI            the root: a folder, file://…, http(s)://…, or any address that fsspec knows (s3://…,
                               with the credentials of an Airflow connection: s3://connection@bucket/folder)
MIGRATION_FILES_TEMPLATE       path of a file below it (include/files/paths.py); default {uid}
MIGRATION_FILES_TRUSTED_HOSTS  web servers that may have private addresses and be asked unencrypted: their names,
                                   separated by commas
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpx
from airflow.sdk import ObjectStoragePath
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from include.core.errors import MigrationError
from include.files.paths import DEFAULT_TEMPLATE, PathTemplate, check_path

URI, TEMPLATE, TRUSTED_HOSTS = (
    "MIGRATION_FILES_URI",
    "MIGRATION_FILES_TEMPLATE",
    "MIGRATION_FILES_TRUSTED_HOSTS",
)

_LOCAL_SCHEMES = ("", "file", "local")
_WEB_SCHEMES = ("http", "https")
_TIMEOUT = httpx.Timeout(60, connect=10)
_BLOCK_BYTES = 1 << 20
# Names that a store may give to what changes with a file's content.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
_MISSING = (httpx.codes.NOT_FOUND, httpx.codes.GONE)
_PUT_OFF = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS)


class FileUnreadableError(Exception):
    """This one file cannot or must not be read; others can."""


@dataclass(frozen=True)
class SourceFile:
    """What can be known of a file without reading it.

    Attributes:
        size: in bytes.
        fingerprint: another one after the file was changed.
    """

    size: int
    fingerprint: str


@dataclass
class OpenFile:
    """A file being read from its start."""

    about: SourceFile
    _read: Callable[[int], bytes] = field(repr=False)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes, fewer only at the end."""
        parts = []
        while size and (part := self._read(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class FileSource(Protocol):
    """The place of legacy files. Paths are relative and plain (include/files/paths.py)."""

    def check(self) -> None:
        """Raise FILES_ROOT_UNREADABLE where nothing can be read."""
        ...

    def stat(self, path: str) -> SourceFile | None:
        """What the file is like, or None where there is none.

        Raises:
            FileUnreadableError: it is no plain file below the root, or may not be read.
            MigrationError: FILES_SOURCE_INTERRUPTED.
        """
        ...

    def open(self, path: str) -> Any:
        """A context with an :class:`OpenFile`; raises FileNotFoundError and what :meth:`stat` raises."""
        ...


@dataclass(frozen=True)
class LegacyFiles:
    """The place of legacy files, and where each lies in it."""

    source: FileSource
    template: PathTemplate


def legacy_files(environment: Mapping[str, str] | None = None) -> LegacyFiles | None:
    """As configured; None where nothing is, and no file is to be copied.

    Raises:
        MigrationError: FILES_SETTING_INVALID.
    """
    settings = os.environ if environment is None else environment
    uri = settings.get(URI, "").strip()
    if not uri:
        return None
    try:
        template = PathTemplate.parse(settings.get(TEMPLATE, "").strip() or DEFAULT_TEMPLATE)
    except ValueError as error:
        raise _invalid(TEMPLATE, str(error)) from None
    return LegacyFiles(_source(uri, settings), template)


def _source(uri: str, settings: Mapping[str, str]) -> FileSource:
    if "::" in uri or "\x00" in uri:
        raise _invalid(URI, "Chained addresses are not supported.")
    scheme = urlsplit(uri).scheme.lower() if "://" in uri else ""
    if "://" in uri and not scheme:
        raise _invalid(URI, "It is neither an address nor a folder.")
    if scheme in _LOCAL_SCHEMES:
        # As ObjectStoragePath reads it: a file's address is taken as it stands, without %20.
        return LocalFiles(Path(uri.split("://", 1)[-1]).expanduser())
    if scheme in _WEB_SCHEMES:
        allowed = {name.strip().lower() for name in settings.get(TRUSTED_HOSTS, "").split(",")}
        return WebFiles(uri, trusted_hosts=frozenset(allowed - {""}))
    try:
        return StoreFiles(*_file_system(uri))
    except (ImportError, ValueError):
        raise _invalid(URI, f"{scheme}:// needs an fsspec package that is not installed.") from None


def _file_system(uri: str) -> tuple[AbstractFileSystem, str]:
    """With the credentials of an Airflow connection where Airflow knows the kind of store."""
    try:
        root = ObjectStoragePath(uri)
        system = root.fs
    except ValueError:
        system, path = url_to_fs(uri)
        return system, str(path)
    return system, root.path


def _invalid(setting: str, detail: str) -> MigrationError:
    return MigrationError("FILES_SETTING_INVALID", detail, setting=setting)


def _unreadable_root(error: BaseException | str) -> MigrationError:
    """Without the address, which may hold a password."""
    cause = error if isinstance(error, str) else type(error).__name__
    return MigrationError("FILES_ROOT_UNREADABLE", "", cause=cause, setting=URI)


def _interrupted(error: BaseException) -> MigrationError:
    return MigrationError("FILES_SOURCE_INTERRUPTED", "", cause=type(error).__name__)


class LocalFiles:
    """A folder. Every step on the way to a file is opened without following links, so that none leads out of it,
    not even one that is put there in between."""

    def __init__(self, root: Path) -> None:
        if not root.is_absolute():
            raise _invalid(URI, "A folder is named by its absolute path.")
        self._root = root

    def check(self) -> None:
        """See :class:`FileSource`."""
        try:
            with os.scandir(self._root) as entries:
                next(entries, None)
        except OSError as error:
            raise _unreadable_root(error) from None

    def stat(self, path: str) -> SourceFile | None:
        """See :class:`FileSource`."""
        try:
            with self._refusing(), self._folder(path) as (folder, name):
                return _plain(os.stat(name, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, path: str) -> Iterator[OpenFile]:
        """See :class:`FileSource`."""
        with self._refusing(), self._folder(path) as (folder, name):
            # Without waiting: opening a pipe would wait for somebody to write into it.
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                about = _plain(os.fstat(handle))
            except BaseException:
                os.close(handle)
                raise
        with os.fdopen(handle, "rb", buffering=0) as stream:
            yield OpenFile(about, _reading(stream))

    @contextmanager
    def _folder(self, path: str) -> Iterator[tuple[int, str]]:
        """The open folder of a file, and the file's name in it."""
        *folders, name = check_path(path).split("/")
        handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                inner = os.open(
                    folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
                )
                os.close(handle)
                handle = inner
            yield handle, name
        finally:
            os.close(handle)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if not self._root.is_dir():
                raise _unreadable_root("FileNotFoundError") from None
            raise
        except (PermissionError, NotADirectoryError) as error:
            raise FileUnreadableError(type(error).__name__) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
                raise FileUnreadableError("link or no plain file") from None
            raise _interrupted(error) from None


def _plain(about: os.stat_result) -> SourceFile:
    if not stat.S_ISREG(about.st_mode):
        raise FileUnreadableError("link or no plain file")
    return SourceFile(about.st_size, f"{about.st_size}-{about.st_mtime_ns}")


def _reading(stream: IO[bytes]) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        try:
            return stream.read(size)
        except OSError as error:
            raise _interrupted(error) from None

    return read


class StoreFiles:
    """An object store, or whatever else fsspec knows. It has no links, and paths hold nothing that leads upwards."""

    def __init__(self, system: AbstractFileSystem, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def check(self) -> None:
        """See :class:`FileSource`."""
        try:
            # Not a list of what may be a hundred thousand objects.
            self._system.info(self._root)
        except Exception as error:  # noqa: BLE001 - every kind of store has errors of its own
            raise _unreadable_root(error) from None

    def stat(self, path: str) -> SourceFile | None:
        """See :class:`FileSource`."""
        try:
            with self._refusing():
                return self._about(path)
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, path: str) -> Iterator[OpenFile]:
        """See :class:`FileSource`."""
        with self._refusing():
            about = self._about(path)
            stream = self._system.open(
                self._path(path), "rb", block_size=_BLOCK_BYTES, cache_type="readahead"
            )
        with stream:

            def read(size: int) -> bytes:
                with self._refusing():
                    return bytes(stream.read(size))

            yield OpenFile(about, read)

    def _path(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    def _about(self, path: str) -> SourceFile:
        known = self._system.info(self._path(path))
        if known.get("type") != "file" or known.get("size") is None or known.get("islink"):
            raise FileUnreadableError("no plain file")
        versions = [str(known[name]) for name in _VERSIONS if known.get(name) is not None]
        return SourceFile(int(known["size"]), "-".join([str(known["size"]), *versions])[:200])

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileUnreadableError):
            raise
        except PermissionError as error:
            raise FileUnreadableError(type(error).__name__) from None
        except Exception as error:  # noqa: BLE001 - as above
            raise _interrupted(error) from None


class WebFiles:
    """A web server. Redirects are not followed, and its name is resolved once: requests go to the address that was
    checked, whatever the name leads to later."""

    def __init__(self, url: str, *, trusted_hosts: frozenset[str] = frozenset()) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment:
            raise _invalid(URI, "An address has a host and neither query nor fragment.")
        self._host = parts.hostname
        self._scheme = parts.scheme.lower()
        self._port = parts.port or (443 if self._scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._trusted = self._host.lower() in trusted_hosts
        if self._scheme == "http" and not self._trusted:
            raise _invalid(
                URI, f"Use https://, or name the host in {TRUSTED_HOSTS}: files are patients' data."
            )
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._client = httpx.Client(auth=login, timeout=_TIMEOUT, follow_redirects=False)
        self._address = ""

    def check(self) -> None:
        """See :class:`FileSource`. Any answer will do: many servers show no list."""
        try:
            with self._request("HEAD", "") as answer:
                refused = answer.status_code == httpx.codes.UNAUTHORIZED
        except MigrationError as error:
            cause = error if error.code != "FILES_SOURCE_INTERRUPTED" else None
            raise cause or _unreadable_root(str(error.facts.get("cause"))) from None
        if refused:
            raise _unreadable_root("login refused")

    def stat(self, path: str) -> SourceFile | None:
        """See :class:`FileSource`."""
        with self._request("HEAD", path) as answer:
            return None if answer.status_code in _MISSING else _about_answer(answer)

    @contextmanager
    def open(self, path: str) -> Iterator[OpenFile]:
        """See :class:`FileSource`."""
        with self._request("GET", path) as answer:
            if answer.status_code in _MISSING:
                raise FileNotFoundError(path)
            about = _about_answer(answer)
            blocks = answer.iter_raw(_BLOCK_BYTES)
            rest = b""

            def read(size: int) -> bytes:
                nonlocal rest
                try:
                    rest = rest or next(blocks, b"")
                except httpx.HTTPError as error:
                    raise _interrupted(error) from None
                taken, rest = rest[:size], rest[size:]
                return taken

            yield OpenFile(about, read)

    @contextmanager
    def _request(self, method: str, path: str) -> Iterator[httpx.Response]:
        self._address = self._address or self._resolved()
        host = f"[{self._address}]" if ":" in self._address else self._address
        name = self._host if self._port in (80, 443) else f"{self._host}:{self._port}"
        below = "/" + quote(check_path(path)) if path else "/"
        request = self._client.build_request(
            method,
            f"{self._scheme}://{host}:{self._port}{self._path}{below}",
            headers={"Host": name, "Accept-Encoding": "identity"},
            # The certificate is that of the name.
            extensions={"sni_hostname": self._host},
        )
        try:
            answer = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _interrupted(error) from None
        try:
            yield answer
        finally:
            answer.close()

    def _resolved(self) -> str:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise _unreadable_root(error) from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._trusted and not all(map(is_public, addresses)):
            raise MigrationError(
                "FILES_SETTING_INVALID",
                f"{self._host} has a private, loopback or link-local address. If it is meant, name the host in"
                f" {TRUSTED_HOSTS}.",
                setting=URI,
            )
        return addresses[0]


def _about_answer(answer: httpx.Response) -> SourceFile:
    status = answer.status_code
    if status in _PUT_OFF or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise MigrationError("FILES_SOURCE_INTERRUPTED", "", status=status)
    size = answer.headers.get("content-length", "")
    if status != httpx.codes.OK or not size.isdecimal() or "content-encoding" in answer.headers:
        raise FileUnreadableError(f"status {status}")
    version = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
    return SourceFile(int(size), f"{size}-{version}"[:200])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also where it is packed into another one."""
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    packed: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [parsed]
    if isinstance(parsed, ipaddress.IPv6Address):
        with suppress(ValueError):
            teredo = parsed.teredo or ()
            packed += [inner for inner in (parsed.ipv4_mapped, parsed.sixtofour, *teredo) if inner]
            if parsed in ipaddress.ip_network("64:ff9b::/96"):
                packed.append(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF))
    return all(each.is_global and not each.is_multicast for each in packed)

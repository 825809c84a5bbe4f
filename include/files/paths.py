"""Where a project's file lies below the configured root, and which keys Supabase Storage takes.

A path is made of a template and of two values that cannot hold a separator: the legacy id and the uid. Names,
which people typed, are no part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_TEMPLATE = "{uid}"
PLACEHOLDERS = "{id}, {uid}, {hex} (the uid without hyphens), and parts of them such as {hex[0:2]}"

_PIECE = re.compile(
    r"(?P<literal>[A-Za-z0-9_./-]+)"
    r"|\{(?P<name>id|uid|hex)(?:\[(?P<start>[0-9]{1,2}):(?P<stop>[0-9]{1,2})\])?\}"
)
_LEGACY_ID = re.compile(r"[0-9]{1,19}")
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What the storage-api accepts; a key with dot segments is refused by clients and proxies on the way.
_OBJECT_KEY = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]{1,1024}")


@dataclass(frozen=True)
class _Placeholder:
    name: str
    part: slice


@dataclass(frozen=True)
class PathTemplate:
    """A checked template; see :data:`PLACEHOLDERS`."""

    text: str
    pieces: tuple[str | _Placeholder, ...]

    @classmethod
    def parse(cls, text: str) -> PathTemplate:
        """Read a template.

        Raises:
            ValueError: with what is wrong; the text is a setting, not a value of a row.
        """
        pieces: list[str | _Placeholder] = []
        end = 0
        while end < len(text):
            match = _PIECE.match(text, end)
            if match is None:
                raise ValueError(f"cannot be read from character {end + 1} on; placeholders: {PLACEHOLDERS}")
            end = match.end()
            pieces.append(match["literal"] or _placeholder(match))
        if not any(isinstance(piece, _Placeholder) and piece.part == slice(None) for piece in pieces):
            raise ValueError("needs {id}, {uid} or {hex} as a whole, or projects would share a file")
        template = cls(text, tuple(pieces))
        check_path(template.render("1", "00000000-0000-0000-0000-000000000000"))
        return template

    def render(self, legacy_id: str, uid: str) -> str:
        """The path of a project's file, relative to the root.

        Raises:
            ValueError: no such id or uid can be.
        """
        uid = uid.lower()
        if not _LEGACY_ID.fullmatch(legacy_id) or not _UID.fullmatch(uid):
            raise ValueError("not a legacy id and a uid")
        values = {"id": legacy_id, "uid": uid, "hex": uid.replace("-", "")}
        return check_path(
            "".join(
                piece if isinstance(piece, str) else values[piece.name][piece.part] for piece in self.pieces
            )
        )


def _placeholder(match: re.Match[str]) -> _Placeholder:
    if match["start"] is None:
        return _Placeholder(match["name"], slice(None))
    start, stop = int(match["start"]), int(match["stop"])
    if not start < stop:
        raise ValueError(f"{match[0]} takes nothing")
    return _Placeholder(match["name"], slice(start, stop))


def check_path(path: str) -> str:
    """The path, if it is relative and every segment of it is a plain name.

    Raises:
        ValueError: absolute, with ``.``, ``..``, an empty segment, a backslash, or a control character.
    """
    if re.search(r"[\x00-\x1f\x7f\\]", path):
        raise ValueError("a path holds no backslash and no control character")
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        raise ValueError("a path is relative, without empty, '.' and '..' segments")
    return path


def is_object_key(key: str) -> bool:
    """Whether Storage takes the key."""
    return bool(_OBJECT_KEY.fullmatch(key)) and not {"", ".", ".."} & set(key.split("/"))

"""The MIME type of a file: by its first bytes, else by the extension of its path.

The legacy database has no type, and a data set's storage name, its uid, has no extension.
"""

from __future__ import annotations

from pathlib import PurePosixPath

DEFAULT = "application/octet-stream"
HEAD_BYTES = 512
"""So many of the first bytes decide."""

_STL_HEADER_BYTES, _STL_FACET_BYTES = 84, 50
# Offset and bytes that a format begins with.
_SIGNATURES = (
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"ply\n", "model/ply"),
    (0, b"ply\r\n", "model/ply"),
    (0, b"glTF", "model/gltf-binary"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"\x1f\x8b", "application/gzip"),
    (128, b"DICM", "application/dicom"),
)
_EXTENSIONS = {
    ".stl": "model/stl",
    ".ply": "model/ply",
    ".obj": "model/obj",
    ".3mf": "model/3mf",
    ".glb": "model/gltf-binary",
    ".dcm": "application/dicom",
    ".dxf": "image/vnd.dxf",
    ".zip": "application/zip",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".txt": "text/plain",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}


def mime_type(head: bytes, size: int, path: str = "") -> str:
    """The MIME type of a file.

    Args:
        head: its first :data:`HEAD_BYTES` bytes, or all of a shorter file.
        size: of the whole file in bytes.
        path: its path; only the extension counts.
    """
    if _is_stl(head, size):
        return "model/stl"
    extension = PurePosixPath(path).suffix.lower()
    for offset, signature, name in _SIGNATURES:
        if head.startswith(signature, offset):
            # Word documents and 3MF models are ZIP archives, too.
            return _EXTENSIONS.get(extension, name) if name == "application/zip" else name
    return _EXTENSIONS.get(extension, DEFAULT)


def _is_stl(head: bytes, size: int) -> bool:
    """Binary STL has no signature, but its number of facets gives its size away; the text form begins with a word."""
    if len(head) >= _STL_HEADER_BYTES:
        facets = int.from_bytes(head[_STL_HEADER_BYTES - 4 : _STL_HEADER_BYTES], "little")
        if size == _STL_HEADER_BYTES + facets * _STL_FACET_BYTES:
            return True
    return head.startswith(b"solid ") and b"facet" in head

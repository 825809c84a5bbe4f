"""MIME types by content, then by extension."""

from __future__ import annotations

import pytest

from include.files.mime import DEFAULT, HEAD_BYTES, mime_type


def binary_stl(facets: int) -> bytes:
    return b"made by a scanner".ljust(80) + facets.to_bytes(4, "little") + bytes(50 * facets)


@pytest.mark.parametrize("facets", [0, 1, 100])
def test_binary_stl_is_known_by_its_size(facets: int):
    content = binary_stl(facets)
    assert mime_type(content[:HEAD_BYTES], len(content)) == "model/stl"
    assert mime_type(content[:HEAD_BYTES], len(content) + 1) == DEFAULT


@pytest.mark.parametrize(
    ("head", "path", "expected"),
    [
        (b"solid tooth\nfacet normal 0 0 1\n", "", "model/stl"),
        (b"solid words of somebody", "", DEFAULT),
        (b"ply\nformat ascii 1.0", "", "model/ply"),
        (bytes(128) + b"DICM", "", "application/dicom"),
        (b"PK\x03\x04", "", "application/zip"),
        (
            b"PK\x03\x04",
            "a/letter.DOCX",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (b"\x89PNG\r\n\x1a\n", "wrong.stl", "image/png"),
        (b"anything", "scan.STL", "model/stl"),
        (b"anything", "no-extension", DEFAULT),
        (b"", "", DEFAULT),
    ],
)
def test_content_goes_before_extension(head: bytes, path: str, expected: str):
    assert mime_type(head, len(head), path) == expected

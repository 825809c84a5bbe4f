"""Where files lie: no template, uid or id leads out of the root."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.files.paths import DEFAULT_TEMPLATE, PathTemplate, check_path, is_object_key

UID = "0D6E3F0A-6f0b-4c53-8f4e-1f7f3a1b2c3d"
ROOT = "/legacy/files"


@pytest.mark.parametrize(
    ("template", "path"),
    [
        (DEFAULT_TEMPLATE, "0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d"),
        ("{uid}.stl", "0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d.stl"),
        ("projects/{id}/{hex}", "projects/135001/0d6e3f0a6f0b4c538f4e1f7f3a1b2c3d"),
        ("{hex[0:2]}/{hex[2:4]}/{uid}", "0d/6e/0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d"),
    ],
)
def test_a_path_is_made_of_id_and_uid(template: str, path: str):
    assert PathTemplate.parse(template).render("135001", UID) == path


@pytest.mark.parametrize(
    "template",
    [
        "",
        "fixed",
        "{hex[0:2]}/file",
        "../{uid}",
        "a/../{uid}",
        "/{uid}",
        "./{uid}",
        "{uid}/",
        "a//{uid}",
        "{name}",
        "{uid!r}",
        "{uid.__class__}",
        "{uid[0]}",
        "{uid[2:2]}",
        "{id[1:9]}/{uid}",
        "{uid}\\..\\x",
        "{uid}\x00",
        "{uid",
        "%2e%2e/{uid}",
        "~/{uid}",
    ],
)
def test_a_template_that_could_lead_elsewhere_is_refused(template: str):
    with pytest.raises(ValueError, match=r"placeholders|as a whole|takes nothing|is relative"):
        PathTemplate.parse(template)


@pytest.mark.parametrize(
    ("legacy_id", "uid"),
    [
        ("1", "../../etc/passwd"),
        ("1", ""),
        ("1", UID + "\n"),
        ("../1", UID),
        ("", UID),
        ("-1", UID),
        ("٣", UID),
    ],
)
def test_what_is_no_id_or_uid_makes_no_path(legacy_id: str, uid: str):
    with pytest.raises(ValueError, match="not a legacy id and a uid"):
        PathTemplate.parse("{id}/{uid}").render(legacy_id, uid)


TEMPLATES = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["{uid}", "{id}", "{hex}", "{hex[0:2]}", "..", ".", "/", "\\", "\x00", "a", "~", "{", "}"]
        )
    ).map("".join),
)
VALUES = st.one_of(
    st.uuids().map(str),
    st.integers(0).map(str),
    st.text(),
    st.sampled_from(["..", "/", "../..", ".", "\x00", "a/.."]),
)


@given(TEMPLATES, VALUES, VALUES)
def test_no_template_and_no_value_leads_out_of_the_root(template: str, legacy_id: str, uid: str):
    try:
        path = PathTemplate.parse(template).render(legacy_id, uid)
    except ValueError:
        return
    whole = posixpath.join(ROOT, path)
    assert whole == posixpath.normpath(whole)
    assert whole.startswith(f"{ROOT}/")
    assert re.fullmatch(r"[A-Za-z0-9_./-]+", path)


@given(st.uuids(), st.integers(0, 10**18))
def test_every_project_has_a_path_and_a_key(uid: object, legacy_id: int):
    assert PathTemplate.parse(DEFAULT_TEMPLATE).render(str(legacy_id), str(uid)) == str(uid)
    assert is_object_key(f"{legacy_id}/{uid}")


@given(st.text())
def test_a_checked_path_stays_below_the_root(path: str):
    try:
        check_path(path)
    except ValueError:
        return
    assert posixpath.normpath(posixpath.join(ROOT, path)) == f"{ROOT}/{path}"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/./b", "ä", "a\\b", "a#b", "a%b", "a\n", "x" * 1025]
)
def test_keys_that_storage_refuses(key: str):
    assert not is_object_key(key)

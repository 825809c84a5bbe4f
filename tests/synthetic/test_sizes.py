import dataclasses

import pytest

from include.synthetic.sizes import REGISTRIES, SourceSize


def test_scaled_keeps_proportions_and_registries():
    real = SourceSize.real()
    half = real.scaled(real.patients // 2)
    for field in dataclasses.fields(real):
        whole, part = getattr(real, field.name), getattr(half, field.name)
        expected = whole if field.name in REGISTRIES else whole / 2
        assert part == pytest.approx(expected, abs=1), field.name


def test_scaled_overrides_single_tables():
    size = SourceSize.real().scaled(1_000, tasks=0, offices=7)
    assert (size.patients, size.tasks, size.offices) == (1_000, 0, 7)


@pytest.mark.parametrize("patients", [40, 41, 55, 100, 333])
def test_small_sizes_are_valid(patients: int):
    assert SourceSize.real().scaled(patients).patients == patients


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patients": 39}, "patients"),
        ({"users": 7_850}, "users"),
        ({"tasks": -1}, "negative"),
        ({"instructions": 0, "jaws": 0, "states": 0, "tasks": 0}, "plans needs instructions"),
        ({"groups": 11}, "groups"),
        ({"template_predecessors": 152 * 151}, "template_predecessors"),
    ],
)
def test_impossible_sizes_are_refused(overrides: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        SourceSize(**overrides)

import pytest
from pydantic import ValidationError

from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.labels import PcsClass


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "absent"), (19.999, "absent"), (20, "small"), (39.999, "small"), (40, "present"), (118.7, "present")],
)
def test_the_limits_belong_to_the_longer_class(length, expected):
    assert DEFAULT_PRESET.classify(length) == PcsClass(expected)


def test_the_default_names_its_source_and_bridges_20_mm():
    assert DEFAULT_PRESET.max_gap_mm == 20
    assert "2001" in DEFAULT_PRESET.citation


@pytest.mark.parametrize(("length", "expected"), [(9.9, "absent"), (10, "small"), (25, "present")])
def test_a_preset_is_data_and_its_limits_count(length, expected):
    preset = ClassPreset.model_validate_json(
        '{"name": "lab", "citation": "ours", "small_from_mm": 10, "present_from_mm": 25, "max_gap_mm": 0}'
    )
    assert preset.classify(length) == expected
    assert ClassPreset.model_validate_json(preset.model_dump_json()) == preset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small_from_mm": 40}, "present_from_mm .* must exceed small_from_mm"),
        ({"small_from_mm": 50}, "present_from_mm .* must exceed small_from_mm"),
        ({"small_from_mm": 0}, "greater than 0"),
        ({"present_from_mm": -1}, "greater than 0"),
        ({"max_gap_mm": -0.1}, "greater than or equal to 0"),
        ({"smal_from_mm": 10}, "Extra inputs"),
        ({"citation": None}, "valid string"),
    ],
)
def test_a_preset_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ClassPreset.model_validate({"name": "lab", "citation": "ours"} | change)


def test_a_preset_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULT_PRESET.small_from_mm = 1

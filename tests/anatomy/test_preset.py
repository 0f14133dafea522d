import json
import re

import numpy as np
import pytest
from pydantic import ValidationError

from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset, find_preset, preset_names
from napari_pcs.errors import InputError
from napari_pcs.labels import Label, PcsClass


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "absent"), (19.999, "absent"), (20, "small"), (39.999, "small"), (40, "present"), (118.7, "present")],
)
def test_the_limits_belong_to_the_longer_class(length, expected):
    assert DEFAULT_PRESET.classify(length) == PcsClass(expected)


@pytest.mark.parametrize(
    ("length", "gaps", "expected"),
    [
        (0, 0, "absent"),
        (19.999, 0, "absent"),
        (20, 0, "present"),
        (39.999, 0, "present"),
        (40, 0, "prominent"),
        (40, 20, "prominent"),
        (80, 20.001, "present"),
        (80, 60, "present"),
        (15, 60, "absent"),
    ],
)
def test_a_prominent_sulcus_is_long_and_hardly_interrupted(length, gaps, expected):
    assert DEFAULT_PRESET.prominence(length, gaps) == expected


def test_the_gaps_of_a_prominent_sulcus_are_the_preset_s():
    strict = ClassPreset(name="p", citation="c", prominent_max_gap_mm=0)
    assert (strict.prominence(60, 0), strict.prominence(60, 0.1)) == ("prominent", "present")


# Shipped


def test_the_default_comes_first_and_the_others_by_name():
    names = preset_names()
    assert names[0] == "default"
    assert list(names[1:]) == sorted(names[1:])
    assert {"default", "sagittal", "intralimbic-first"} <= set(names)


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_names_itself_its_source_and_what_nobody_could_check(name):
    preset = find_preset(name)
    assert preset.name == name
    # A source is a work with its year.
    assert re.search(r"\b(19|20)\d\d\b", preset.citation)
    assert len(preset.description) > 40
    assert preset.unverified
    assert all(len(sentence) > 20 for sentence in preset.unverified)
    assert ClassPreset.model_validate_json(preset.model_dump_json()) == preset


def test_the_default_bridges_20_mm_and_counts_them_everywhere():
    assert find_preset("default") == DEFAULT_PRESET
    assert (DEFAULT_PRESET.max_gap_mm, DEFAULT_PRESET.counts_gaps) == (20, True)
    points = np.random.default_rng(0).uniform(-90, 90, (50, 3))
    assert DEFAULT_PRESET.covers(points).all()
    assert "2001" in DEFAULT_PRESET.citation


def test_the_newer_protocol_looks_for_the_intralimbic_sulcus_then_the_cingulate():
    newer = find_preset("intralimbic-first")
    assert newer.identify_first == (Label.INTRALIMBIC, Label.CINGULATE)
    assert newer.requires == (Label.CINGULATE,)
    assert newer.counts_gaps is False


@pytest.mark.parametrize(
    ("in_front", "above", "expected"),
    [
        (False, False, [1, 1, 1, 1]),
        (True, False, [1, 1, 0, 0]),
        (False, True, [1, 0, 1, 0]),
        (True, True, [1, 0, 0, 0]),
    ],
)
def test_a_preset_may_cover_only_what_lies_in_front_of_and_above_the_ac(in_front, above, expected):
    preset = ClassPreset(name="p", citation="c", in_front_of_ac=in_front, above_ac=above)
    points = np.array([[-5, 0, 0], [-5, 30, -0.1], [5, -0.1, 30], [5, -1, -1]], float)
    assert preset.covers(points).tolist() == [bool(v) for v in expected]


def test_the_sagittal_protocol_covers_the_quadrant():
    sagittal = find_preset("sagittal")
    assert (sagittal.in_front_of_ac, sagittal.above_ac) == (True, True)


# One's own


@pytest.mark.parametrize(("length", "expected"), [(9.9, "absent"), (10, "small"), (25, "present")])
def test_a_preset_is_data_and_its_limits_count(tmp_path, length, expected):
    path = tmp_path / "lab.json"
    path.write_text('{"name": "lab", "citation": "ours", "small_from_mm": 10, "present_from_mm": 25, "max_gap_mm": 0}')
    preset = find_preset(str(path))
    assert preset.classify(length) == expected
    assert ClassPreset.model_validate_json(preset.model_dump_json()) == preset


def test_a_copy_of_a_shipped_preset_can_be_edited(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(json.loads(find_preset("sagittal").model_dump_json()) | {"name": "Zoë's", "above_ac": 0})
    )
    found = find_preset(str(path))
    assert found == find_preset("sagittal").model_copy(update={"name": "Zoë's", "above_ac": False})


def test_a_name_that_is_none_is_refused_with_those_there_are(tmp_path):
    for name in ("defualt", str(tmp_path / "none.json"), str(tmp_path), ""):
        with pytest.raises(InputError, match=r"found no preset .*default, intralimbic-first.*or the path of"):
            find_preset(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "object"),
        ('{"name": "lab"}', "citation: Field required"),
        ('{"name": "lab", "citation": "c", "small_from": 3}', "small_from: Extra inputs"),
        ('{"name": "lab", "citation": "c", "max_gap_mm": "wide"}', "max_gap_mm: Input should be a valid number"),
        ('{"name": "lab", "citation": "c", "identify_first": [9]}', r"identify_first\.0: "),
        ('{"name": "lab", "citation": "c", "small_from_mm": 50}', "present_from_mm .* must exceed"),
    ],
)
def test_a_broken_file_is_named_with_its_first_fault_and_a_way_out(tmp_path, content, message):
    path = tmp_path / "lab.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^lab\.json: found .*{message}.*expected a preset.*presets show default"):
        find_preset(str(path))


def test_a_file_that_is_no_text_is_refused_too(tmp_path):
    path = tmp_path / "lab.json"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"^lab\.json: found .*expected a preset"):
        find_preset(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small_from_mm": 40}, "present_from_mm .* must exceed small_from_mm"),
        ({"small_from_mm": 50}, "present_from_mm .* must exceed small_from_mm"),
        ({"small_from_mm": 0}, "greater than 0"),
        ({"present_from_mm": -1}, "greater than 0"),
        ({"max_gap_mm": -0.1}, "greater than or equal to 0"),
        ({"prominent_max_gap_mm": -0.1}, "greater than or equal to 0"),
        ({"smal_from_mm": 10}, "Extra inputs"),
        ({"citation": None}, "valid string"),
        ({"requires": [3]}, "requires must be among identify_first"),
        ({"identify_first": [7]}, "Input should be 0, 1, 2, 3 or 4"),
    ],
)
def test_a_preset_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ClassPreset.model_validate({"name": "lab", "citation": "ours"} | change)


def test_a_preset_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULT_PRESET.small_from_mm = 1

import pytest

from napari_pcs.models.lineage import Lineage, Stage, lineage_table


def stage(name="one", parts=("stem", "encoder"), digest=""):
    return Stage(
        name=name, objective="simclr", data="cohort, 40 hemispheres, 1234", epochs=12.5, parts=parts, digest=digest
    )


def test_a_table_has_a_row_for_each_stage_and_no_cell_breaks_it():
    awkward = stage().model_copy(update={"data": "a|b\nc"})
    head, rule, *rows = lineage_table(Lineage(stages=(stage(digest="ab"), awkward))).splitlines()
    assert head.count("|") == rule.count("|") == 7
    assert rows == [
        "| one | simclr | cohort, 40 hemispheres, 1234 | 12.5 | stem, encoder | ab |",
        "| one | simclr | a\\|b c | 12.5 | stem, encoder | unknown |",
    ]


def test_trained_parts_are_those_of_all_stages_together():
    assert Lineage().trained_parts == set()
    found = Lineage(stages=(stage(), stage(parts=("encoder", "heads")))).trained_parts
    assert found == {"stem", "encoder", "heads"}


def test_only_the_last_stage_gets_the_new_digest():
    found = Lineage(stages=(stage(digest="aa"), stage("two"))).ending_with("bb")
    assert [s.digest for s in found.stages] == ["aa", "bb"]
    with pytest.raises(ValueError, match="without stages"):
        Lineage().ending_with("bb")

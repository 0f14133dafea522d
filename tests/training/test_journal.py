import pytest

from napari_pcs.errors import InputError
from napari_pcs.training.events import Preparing, Skipped
from napari_pcs.training.journal import drop_torn_line, last_event, read_events, write_event

FIRST, SECOND = Preparing(sentence="Überblick"), Skipped(name="sub-2", reason="no header", count=1, of=9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "events.jsonl"


def test_a_follower_gets_each_event_once_and_in_order(path):
    assert read_events(path) == ([], 0)
    write_event(path, FIRST)
    found, offset = read_events(path)
    assert found == [FIRST]
    assert read_events(path, offset) == ([], offset)
    write_event(path, SECOND)
    write_event(path, FIRST)
    assert read_events(path, offset) == ([SECOND, FIRST], path.stat().st_size)
    assert read_events(path)[0] == [FIRST, SECOND, FIRST]


def test_a_line_cut_anywhere_is_read_when_it_is_whole(path):
    write_event(path, FIRST)
    start = path.stat().st_size
    write_event(path, SECOND)
    whole = path.read_bytes()
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        found, offset = read_events(path)
        assert (found, offset) == ([FIRST], start)
        path.write_bytes(whole)
        assert read_events(path, offset) == ([SECOND], len(whole))


def test_an_event_of_a_kind_unknown_here_is_left_out(path):
    write_event(path, FIRST)
    with path.open("a") as stream:
        stream.write('{"event": "Teleported", "where": "home"}\n')
    write_event(path, SECOND)
    assert read_events(path)[0] == [FIRST, SECOND]


@pytest.mark.parametrize("line", ["no event", "[1]", '{"sentence": "x"}', '{"event": "Preparing", "words": "x"}'])
def test_a_line_that_is_no_event_is_refused_by_a_sentence(path, line):
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=r"^events.jsonl: found a line that is no event .* expected one event a line"):
        read_events(path)


def test_only_a_torn_last_line_is_dropped(path):
    write_event(path, FIRST)
    whole = path.read_bytes()
    drop_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole + whole[:-1])
    drop_torn_line(path)
    assert path.read_bytes() == whole
    drop_torn_line(path.with_name("missing"))
    assert not path.with_name("missing").exists()


def test_the_last_event_is_found_without_reading_those_before_it(path, monkeypatch):
    assert last_event(path) is None
    monkeypatch.setattr("napari_pcs.training.journal._TAIL", 200)
    for n in range(20):
        write_event(path, Preparing(sentence=f"{n} " + "x" * (40 * n % 300)))
        assert last_event(path) == read_events(path)[0][-1]
    with path.open("a") as stream:
        stream.write('{"event": "Prep')
    assert last_event(path).sentence.startswith("19 ")
    path.write_text('{"event": "Prep')
    assert last_event(path) is None

import threading
import time

import pytest

from napari_pcs.errors import CancelledError, InputError
from napari_pcs.stop import StopToken
from napari_pcs.streams import Stage, left_behind, stream


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("stream-")]


@pytest.fixture(autouse=True)
def nothing_survives():
    yield
    assert threads() == []


def parts_of(item, _stop):
    """An item is a number: it has so many parts."""
    yield from ((item, n) for n in range(item))


READ = Stage("read", parts_of)


def adding(name, **options):
    return Stage(name, lambda value, _stop: (*value, name), **options)


def test_every_part_goes_through_every_stage_in_order_and_keeps_its_number():
    items = [2, 0, 1, 3]
    found = list(stream(items, [READ, adding("one"), adding("two")]))
    assert {e.number: e.result for e in found} == {
        (n, part): (item, part, "one", "two") for n, item in enumerate(items) for part in range(item)
    }
    assert all(items[e.number[0]] == e.item for e in found)
    assert all(list(e.seconds) == ["read", "one", "two"] and e.error is None and e.stage == "two" for e in found)


def test_with_one_worker_a_stage_the_order_of_completion_is_that_of_reading():
    assert [e.number for e in stream([3, 2], [READ, adding("one"), adding("two")])] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1),
    ]  # fmt: skip


def test_all_stages_work_at_the_same_time():
    """The third value is read, the second worked on and the first finished: none gets past this alone."""
    together = threading.Barrier(3)
    meeting = {("read", 2), ("one", 1), ("two", 0)}

    def meet(name, value):
        if (name, value) in meeting:
            together.wait(timeout=20)
        return value

    def read(item, _stop):
        yield meet("read", item)

    stages = [Stage("read", read), *(Stage(n, lambda v, _s, n=n: meet(n, v)) for n in ("one", "two"))]
    assert [e.result for e in stream(range(5), stages)] == [0, 1, 2, 3, 4]


def test_workers_of_one_stage_work_at_the_same_time():
    together = threading.Barrier(3)
    stage = Stage("one", lambda value, _stop: together.wait(timeout=20) and value, workers=3)
    assert len(list(stream([3, 3], [READ, stage, adding("two")], in_flight=6))) == 6


@pytest.mark.parametrize("stage", ["read", "one", "two"])
def test_a_part_that_fails_is_reported_and_stops_no_other(stage):
    def fail(name, value):
        if name == stage and value == 2:
            raise InputError(found="2", expected="another number")
        return value

    def read(item, _stop):
        yield fail("read", item)

    stages = [Stage("read", read), *(Stage(n, lambda v, _s, n=n: fail(n, v)) for n in ("one", "two"))]
    found = sorted(stream(range(5), stages), key=lambda e: e.number)
    assert [e.result for e in found] == [0, 1, None, 3, 4]
    assert [type(e.error) for e in found] == [type(None), type(None), InputError, type(None), type(None)]
    assert (found[2].item, found[2].stage, list(found[2].seconds)[-1]) == (2, stage, stage)


def test_reading_that_fails_midway_keeps_the_parts_that_were_read():
    def read(item, _stop):
        yield item
        if item == 1:
            raise KeyError(item)
        yield item

    found = sorted(stream([0, 1, 2], [Stage("read", read), Stage("one", lambda v, _s: v)]), key=lambda e: e.number)
    assert [(e.number, e.result) for e in found] == [
        ((0, 0), 0), ((0, 1), 0), ((1, 0), 1), ((1, 1), None), ((2, 0), 2), ((2, 1), 2),
    ]  # fmt: skip
    assert isinstance(found[3].error, KeyError)


def test_no_more_parts_exist_than_may_be_in_flight_even_if_nobody_takes_the_results():
    alive, most = set(), []

    def read(item, _stop):
        alive.add(item)
        most.append(len(alive))
        yield item

    flow = stream(range(30), [Stage("read", read), adding_nothing(), adding_nothing()], in_flight=4)
    for ended in flow:
        time.sleep(0.01)  # slower than all stages
        alive.discard(ended.item)
    assert len(most) == 30
    # One that is taken lets one more in before it is counted out here.
    assert max(most) <= 5


def adding_nothing():
    return Stage("pass", lambda value, _stop: value)


def test_a_stop_ends_all_stages_soon_and_says_so():
    stop, entered = StopToken(), threading.Event()

    def forever(_value, halt):
        entered.set()
        while True:
            halt.check()
            time.sleep(0.01)

    threading.Thread(target=lambda: (entered.wait(), stop.set())).start()
    begin = time.monotonic()
    with pytest.raises(CancelledError):
        list(stream([9, 9, 9], [READ, Stage("one", forever), adding("two")], stop=stop))
    assert time.monotonic() - begin < 5


def test_whoever_stops_taking_results_stops_the_work():
    worked = []
    flow = stream([1000], [READ, Stage("one", lambda value, _stop: worked.append(value) or value)], in_flight=3)
    next(flow)
    assert threads()
    flow.close()
    assert threads() == []
    assert len(worked) <= 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CancelledError("Gone."), SystemExit(3)])
@pytest.mark.parametrize("place", ["items", "read", "one"])
def test_what_is_meant_to_end_everything_does(error, place):
    def raising(here, value):
        if here == place and value == 1:
            raise error
        return value

    def items():
        yield from (raising("items", n) for n in range(5))

    def read(item, _stop):
        yield raising("read", item)

    with pytest.raises(type(error)):
        list(stream(items(), [Stage("read", read), Stage("one", lambda v, _s: raising("one", v)), adding_nothing()]))


def test_an_error_of_the_list_of_items_is_raised():
    def items():
        yield 1
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        list(stream(items(), [READ, adding("one")]))


def test_items_are_taken_only_as_they_are_worked_on():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield 1

    flow = stream(items(), [READ, adding("one")], in_flight=3)
    for _ in range(5):
        next(flow)
    flow.close()
    assert len(taken) <= 5 + 3 + 1


def test_several_workers_read_at_the_same_time_and_each_part_keeps_its_number():
    together = threading.Barrier(3)

    def read(item, _stop):
        together.wait(timeout=20)
        yield from ((item, n) for n in range(2))

    found = list(stream(range(6), [Stage("read", read, workers=3), adding("one")], in_flight=6))
    assert {e.number: e.result for e in found} == {(n, p): (n, p, "one") for n in range(6) for p in range(2)}
    assert all(e.item == e.number[0] for e in found)


def test_what_is_finished_when_a_stop_comes_is_told_before_it_ends():
    """The second value is in the last stage when the stop comes, and is allowed to leave it."""
    stop, entered = StopToken(), threading.Event()

    def last(value, _halt):
        if value == 1:
            entered.set()
            assert stop._event.wait(timeout=20)
        return value

    threading.Thread(target=lambda: (entered.wait(), stop.set())).start()
    stages = [Stage("read", lambda item, _stop: iter([item])), Stage("last", last)]
    found = []

    def follow():
        for ended in stream([0, 1, 2, 3], stages, stop=stop):
            found.append(ended.result)  # noqa: PERF401  what came before the error is to be kept

    with pytest.raises(CancelledError):
        follow()
    assert found == [0, 1]


def test_a_part_that_fails_says_what_its_stage_was_given():
    def fail(value, _stop):
        raise InputError(found=str(value), expected="none")

    (ended,) = stream([7], [Stage("read", lambda item, _s: iter([[item]])), adding_nothing(), Stage("fail", fail)])
    assert (ended.given, ended.result, ended.stage) == ([7], None, "fail")


def test_a_stop_waits_for_what_must_complete_and_not_for_the_rest():
    stop, entered, free, completed = StopToken(), threading.Barrier(3), threading.Event(), []

    def deaf(value, _halt):
        if value == 1:
            entered.wait(timeout=20)
            free.wait(timeout=20)
        return value

    def writes(value, _halt):
        entered.wait(timeout=20)
        stop._event.wait(timeout=20)
        time.sleep(0.3)
        completed.append(value)
        return value

    stages = [
        Stage("read", lambda item, _s: iter([item])),
        Stage("deaf", deaf, completes=False),
        Stage("write", writes),
    ]
    threading.Thread(target=lambda: (entered.wait(timeout=20), stop.set())).start()
    with pytest.raises(CancelledError):
        list(stream(range(5), stages, stop=stop, patience_s=0.1))
    assert completed == [0]
    assert left_behind()
    free.set()
    for thread in threads():
        thread.join(timeout=20)
    assert not left_behind()

"""The loop and its protocol, in this process: fake work, and pipes instead of standard streams."""

import json
import os
import threading

import pytest
from fake_work import FakeWork, predict, prefetch, tune, warm

from napari_pcs.worker import server
from napari_pcs.worker.channel import Channel, encode, read_reply
from napari_pcs.worker.messages import LOST_DEVICE, Cancel, Quit
from napari_pcs.worker.server import Server

PATIENCE_S = 60


class Served:
    """A server on a thread, and its client."""

    def __init__(self, work):
        self.exit_codes = []
        their_requests, self._requests = self._pipe()
        self._replies, their_replies = self._pipe()
        self._server = Server(Channel(their_requests, their_replies), work, leave=self.exit_codes.append)
        self._heard, self._news = [], threading.Condition()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._server.run, self._listen)]
        self._their_replies = their_replies
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _pipe():
        read, write = os.pipe()
        return os.fdopen(read, "rb"), os.fdopen(write, "wb", buffering=0)

    def _listen(self):
        for line in self._replies:
            with self._news:
                self._heard.append(read_reply(line))
                self._news.notify_all()

    def send(self, *requests):
        for request in requests:
            self.write(encode(request))

    def write(self, line):
        self._requests.write(line)

    def until(self, number, kind, text=None):
        """Wait for a reply."""

        def there():
            return [r for r in self._heard if (r.id, r.kind) == (number, kind) and text in (None, *r.content.values())]

        with self._news:
            assert self._news.wait_for(there, PATIENCE_S), self._heard
            return there()[0]

    def told(self, number=None):
        """Return sentences and cases that events told, and how requests ended, in order."""
        with self._news:
            return [
                r.content.get("sentence", r.content.get("case", "?")) if r.kind == "event" else f"{r.id} {r.kind}"
                for r in self._heard
                if r.id and number in (None, r.id)
            ]

    def hang_up(self):
        self._requests.close()
        self._threads[0].join(PATIENCE_S)
        assert not self._threads[0].is_alive()


@pytest.fixture
def work():
    return FakeWork()


@pytest.fixture
def served(work):
    served = Served(work)
    yield served
    for name in list(work.gates):
        work.gate(name).set()
    if not served._requests.closed:
        served.hang_up()
    served._their_replies.close()
    served._threads[1].join(PATIENCE_S)


def test_it_says_that_it_is_ready_and_answers_what_it_is_asked(served):
    served.send(predict("say:something", 1))
    assert served.until(0, "ready").content == {}
    served.until(1, "done")
    assert served.told() == ["something", "1 done"]


def test_what_somebody_waits_for_comes_first_then_models_then_what_may_be_wanted(served, work):
    served.send(predict("hold:first", 1))
    served.until(1, "event")
    work.gate("far").set()
    served.send(prefetch("far", number=2), warm("say:model", 3), tune("say:tuned", 4), predict("say:predicted", 5))
    served.send(Cancel(id=6, of=99))
    served.until(6, "done")
    work.gate("first").set()
    served.until(2, "done")
    assert [line for line in served.told() if " " not in line] == [
        "first",
        "tuned",
        "predicted",
        "model",
        "far",
        "far",
    ]


@pytest.mark.parametrize("urgent", [predict, tune])
def test_prefetching_gives_way_and_is_taken_up_again_where_it_was(served, work, urgent):
    work.gate("one").set()
    served.send(prefetch("one", "two", "three", number=1))
    served.until(1, "event", "two")
    served.send(urgent("say:urgent", 2))
    served.until(2, "done")
    work.gate("two").set()
    work.gate("three").set()
    served.until(1, "done")
    # Each case is told as it begins and as it is there: "one" once, "two" begun again after the interruption.
    assert served.told() == ["one", "one", "two", "urgent", "2 done", "two", "two", "three", "three", "1 done"]


def test_a_model_is_loaded_between_two_cases_without_interrupting_either(served, work):
    served.send(prefetch("one", "two", number=1))
    served.until(1, "event", "one")
    served.send(warm("say:model", 2), Cancel(id=3, of=99))
    served.until(3, "done")
    work.gate("one").set()
    work.gate("two").set()
    served.until(1, "done")
    assert served.told()[:2] == ["one", "3 done"]
    assert served.told()[2:] == ["one", "model", "2 done", "two", "two", "1 done"]


def test_only_the_latest_prefetch_counts(served, work):
    served.send(predict("hold:busy", 1))
    served.until(1, "event")
    work.gate("new").set()
    served.send(prefetch("old", number=2), prefetch("new", number=3))
    served.until(2, "cancelled")
    work.gate("busy").set()
    served.until(3, "done")
    served.send(prefetch("running", number=4))
    served.until(4, "event")
    served.send(prefetch("new", number=5))
    served.until(5, "done")
    served.until(4, "cancelled")
    assert "old" not in served.told()


def test_a_running_request_is_cancelled(served):
    served.send(predict("hold:long", 1))
    served.until(1, "event")
    served.send(Cancel(id=2, of=1))
    served.until(1, "cancelled")
    assert served.told() == ["long", "2 done", "1 cancelled"]


def test_prefetching_that_was_cancelled_is_not_taken_up_again(served, work):
    served.send(prefetch("one", "two", number=1))
    served.until(1, "event", "one")
    served.send(predict("hold:busy", 2))
    served.until(2, "event")
    served.send(Cancel(id=3, of=1))
    served.until(1, "cancelled")
    work.gate("busy").set()
    served.send(predict("say:after", 4))
    served.until(4, "done")
    assert "two" not in served.told()


def test_a_waiting_request_is_cancelled_at_once(served, work):
    served.send(predict("hold:busy", 1))
    served.until(1, "event")
    served.send(tune("say:never", 2), Cancel(id=3, of=2))
    served.until(2, "cancelled")
    work.gate("busy").set()
    served.until(1, "done")
    served.send(predict("say:after", 4))
    served.until(4, "done")
    assert "never" not in served.told()


def test_all_requests_are_cancelled_together(served):
    served.send(predict("hold:one", 1))
    served.until(1, "event")
    served.send(tune("say:two", 2), prefetch("three", number=3), Cancel(id=4))
    for number in (1, 2, 3):
        served.until(number, "cancelled")


def test_cancelled_work_may_still_have_a_result(served):
    served.send(tune("save", 1))
    served.until(1, "event")
    served.send(Cancel(id=2, of=1))
    served.until(1, "done")
    assert served.told(1) == ["begun", "saved", "1 done"]


def test_every_request_ends_once(served, work):
    work.gate("case").set()
    names = ("say:x", "memory", "odd", "own", "unheard")
    served.send(*(predict(name, n) for n, name in enumerate(names, 1)), prefetch("case", number=9))
    served.until(9, "done")
    ends = [line for line in served.told() if line.split()[0].isdigit()]
    assert ends == ["1 done", "2 failed", "3 failed", "4 failed", "5 done", "9 done"]


def test_it_rests_once_when_nobody_asks_for_anything_for_a_while(monkeypatch, work):
    rests = threading.Event()
    monkeypatch.setattr(server, "_REST_AFTER_S", 0.02)
    monkeypatch.setattr(work, "rest", lambda: setattr(work, "rested", work.rested + 1) or rests.set())
    served = Served(work)
    assert rests.wait(PATIENCE_S)
    served.send(predict("hold:long", 1))
    served.until(1, "event")
    before = work.rested
    assert before == 1
    work.gate("long").wait(0.1)
    assert work.rested == before
    rests.clear()
    work.gate("long").set()
    served.until(1, "done")
    assert rests.wait(PATIENCE_S)
    served.hang_up()


def test_running_out_of_memory_is_a_sentence_and_what_can_be_loaded_again_is_let_go(served, work):
    served.send(tune("memory", 1))
    sentence = served.until(1, "failed").content["sentence"]
    assert "Tuning ran out of memory" in sentence
    assert "smaller patch or the CPU" in sentence
    assert work.relieved == 1
    served.send(predict("say:alive", 2))
    served.until(2, "done")


def test_whatever_else_goes_wrong_is_a_sentence_with_the_traceback_beside_it(served):
    served.send(predict("odd", 1))
    content = served.until(1, "failed").content
    assert content["sentence"] == "Predicting failed unexpectedly (ValueError: odd). The log has the details."
    assert "Traceback" in content["details"]


def test_a_sentence_of_ours_is_told_as_it_stands(served):
    served.send(predict("own", 1))
    assert served.until(1, "failed").content == {"sentence": "found a cat, expected a brain."}


def test_unknown_work_fails_and_nothing_else_does(served):
    served.send(predict("no-such-thing", 1), predict("say:alive", 2))
    served.until(2, "done")
    assert "failed unexpectedly" in served.until(1, "failed").content["sentence"]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"no json\n", 0),
        (b"\xff\xfe\n", 0),
        (b"[1, 2]\n", 0),
        (b"17\n", 0),
        (b"\n", 0),
        (b'{"do": "dance"}\n', 0),
        (b'{"do": "dance", "id": 7}\n', 7),
        (b'{"do": "warm", "id": 7}\n', 7),
        (b'{"do": "warm", "id": 7, "model": "x", "surplus": 1}\n', 7),
        (b'{"do": "warm", "id": "seven", "model": "x"}\n', 0),
    ],
)
def test_a_malformed_line_fails_and_the_next_one_is_served(served, line, number):
    served.write(line)
    assert "could not be read" in served.until(number, "failed").content["sentence"]
    served.send(predict("say:alive", 8))
    served.until(8, "done")


def test_requests_and_replies_hold_any_characters(served):
    name = "Zürich/日本 \\\"'\u2028\t脑"
    served.send(predict(f"say:{name}", 1))
    served.until(1, "done")
    assert served.told(1)[0] == name


def test_a_lost_device_ends_the_process(work):
    def lose(name, stop):
        yield from ()
        msg = "CUDA error: unspecified launch failure\nCUDA kernel errors might ..."
        raise RuntimeError(msg)

    work.lose = lose
    served = Served(work)
    served.send(predict("lose", 1))
    assert "GPU failed (CUDA error: unspecified launch failure)" in served.until(1, "failed").content["sentence"]
    served.hang_up()
    assert LOST_DEVICE in served.exit_codes


def test_it_ends_when_nobody_is_left_to_ask(served):
    served.send(tune("hold:long", 1))
    served.until(1, "event")
    served.hang_up()
    assert set(served.exit_codes) == {0}


def test_asked_to_quit_it_lets_what_runs_save_and_takes_nothing_more(served, work):
    served.send(tune("save", 1))
    served.until(1, "event")
    served.send(predict("say:never", 2), Quit(id=3))
    served._threads[0].join(PATIENCE_S)
    assert served.exit_codes == [0]
    served.until(1, "done")
    assert served.told(1) == ["begun", "saved", "1 done"]
    assert served.told(2) == ["2 cancelled"]


def test_it_ends_when_nobody_can_hear_it(work):
    their_requests, ours = Served._pipe()
    read, write = Served._pipe()
    read.close()
    codes = []
    ours.write(encode(predict("hold:x", 1)))
    Server(Channel(their_requests, write), work, leave=codes.append).run()
    assert codes[0] == 0
    ours.close()


def test_a_reply_is_one_line_of_json(served):
    served.send(predict("say:two\nlines", 1))
    served.until(1, "done")
    assert served.told(1)[0] == "two\nlines"
    assert json.loads(encode(served.until(1, "event")))["content"] == {"sentence": "two\nlines"}

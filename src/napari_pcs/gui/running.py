"""Start a job for a viewer: its messages go to the state, and only one runs at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_pcs.gui.jobs import Job, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_pcs.gui.state import State

__all__ = ["start_job"]


def start_job(
    state: State,
    title: str,
    work: Work,
    show: Callable[[Any], None],
    *,
    may_be_abandoned: bool = True,
    what_stays: Callable[[], str] | None = None,
    without_result: Callable[[], None] | None = None,
    tuning: bool = False,
) -> None:
    """Run work off the GUI thread and show its result on it; refused while another job of its kind runs.

    Parameters
    ----------
    state
        Takes the job, its events and its messages.
    title
        What is being done.
    work
        Runs off the GUI thread.
    show
        Gets the last event.
    may_be_abandoned
        See `Job.cancel`.
    what_stays
        Gives a sentence on what there is of cancelled work; not needed where there is never anything.
    without_result
        Called in place of `show` when the work has failed or was cancelled.
    tuning
        It is the tuning, which runs beside any other job.
    """
    place, heard = ("tuning_job", "tuning_event") if tuning else ("job", "event")
    running = getattr(state, place)
    if running is not None:
        state.say(f"{running.title} is still running. Wait, or cancel it.", error=True)
        return
    job = Job(title, work, may_be_abandoned=may_be_abandoned)

    def note(event: Any) -> None:
        setattr(state, heard, event)

    # The job is over before its result is shown: what that starts next must not meet it.
    def done(result: Any) -> None:
        setattr(state, place, None)
        show(result)

    def failed(sentence: str) -> None:
        setattr(state, place, None)
        if without_result is not None:
            without_result()
        state.say(sentence, error=True)

    def cancelled() -> None:
        setattr(state, place, None)
        if without_result is not None:
            without_result()
        state.say(f"{title}: cancelled. {what_stays() if what_stays else 'Nothing was changed.'}")

    job.done.connect(done)
    job.failed.connect(failed)
    job.cancelled.connect(cancelled)
    job.event.connect(note)
    state.say(f"{title}. Go on with the next case meanwhile." if tuning else title)
    setattr(state, place, job)
    job.start()

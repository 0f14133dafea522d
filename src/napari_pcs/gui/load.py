"""Load: open a sample, files, or a case of a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QListWidget,
    QPushButton,
    QStyle,
    QWidget,
)

from napari_pcs.anatomy.sources.find import UNDERSTOOD
from napari_pcs.data.names import SAMPLES
from napari_pcs.gui.landmarks import LandmarksGroup
from napari_pcs.gui.listing import Listing
from napari_pcs.gui.panel import Panel, button, heading, note, row
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_pcs.bids import CaseKey

__all__ = ["LoadPanel"]

_IMAGES = "Images (*.nii *.nii.gz *.mgz *.mgh);;All files (*)"
_UNDERSTOOD = "Understood: " + "; ".join(UNDERSTOOD)
_ALL = 100
"""Of the height that nothing else needs, against 1 of the space below."""
_SIDES = {"from the file name": None, "left": Hemisphere.LEFT, "right": Hemisphere.RIGHT}


class LoadPanel(Panel):
    """Chooses what the workspace is about."""

    title: ClassVar[str] = "Load"

    def build(self) -> None:
        self.sample = QComboBox()
        self.sample.addItems(SAMPLES)
        self.open_sample = button("Open sample", lambda: self.do.open_sample(self.sample.currentText()))
        self.column.addWidget(heading("Sample"))
        self.column.addWidget(row(self.sample, self.open_sample))
        self.column.addWidget(heading("Scan or folder"))
        self.column.addWidget(self._file_form())
        self.open_files = button("Open", self._open_files, "Recognise what it is, prepare it and show a hemisphere")
        self.column.addWidget(self.open_files)
        self.landmarks = LandmarksGroup(self.do)
        self.column.addWidget(self.landmarks)
        self.column.addWidget(heading("Session"))
        self.session_name = note("None: choose a folder to keep predictions and corrections in.")
        self.column.addWidget(self.session_name)
        self.column.addWidget(button("Choose session folder...", self._choose_session))
        self.cases = QListWidget()
        self.cases.setToolTip("Double-click a case, or press Enter on it, to open it")
        self.cases.setMinimumHeight(60)
        self.cases.setUniformItemSizes(True)
        self.cases.itemActivated.connect(lambda item: self._open_case(self.cases.row(item)))
        self.column.addWidget(self.cases, stretch=_ALL)
        self.next = button("Open next case", self.do.open_next, "The next one that nobody has corrected")
        self.column.addWidget(self.next)
        self.state.events.session.connect(self._refresh)
        self.state.events.listing.connect(self._refresh)
        self.state.events.ready.connect(self._mark_ready)
        self._shown = Listing()
        self._ready: frozenset[CaseKey] = frozenset()
        self._rows: dict[CaseKey, int] = {}
        self._refresh()

    def busy_buttons(self) -> list[QPushButton]:
        return [self.open_sample, self.open_files]

    def _job_changed(self, job: object) -> None:
        super()._job_changed(job)
        self._offer_next()

    def _offer_next(self) -> None:
        """Offer the next case only where there is one."""
        self.next.setEnabled(self.state.job is None and self.do.next_case is not None)

    def _file_form(self) -> QWidget:
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        self.scan, self.image, self.reference = QLineEdit(), QLineEdit(), QLineEdit()
        self.scan.setPlaceholderText("file or subject folder, required")
        self.scan.setToolTip(_UNDERSTOOD)
        self.image.setPlaceholderText("T1 to show, on the same grid")
        self.reference.setPlaceholderText("labels to compare with")
        self.side = QComboBox()
        self.side.addItems(list(_SIDES))
        self.side.setToolTip("Where there are both and none is chosen, the left one opens")
        # Without a label beside it: a path is long.
        layout.addRow(row(self.scan, self._file_button(self.scan), self._folder_button(self.scan)))
        for label, edit in (("Image", self.image), ("Reference", self.reference)):
            edit.setToolTip("Only with a single grey/white map")
            layout.addRow(label, row(edit, self._file_button(edit)))
        layout.addRow("Hemisphere", self.side)
        return form

    def _file_button(self, edit: QLineEdit) -> QPushButton:
        def browse() -> None:
            name, _ = QFileDialog.getOpenFileName(self, "Choose an image", edit.text(), _IMAGES)
            edit.setText(name or edit.text())

        return self._small_button(QStyle.StandardPixmap.SP_FileIcon, browse, "Choose a file")

    def _folder_button(self, edit: QLineEdit) -> QPushButton:
        def browse() -> None:
            name = QFileDialog.getExistingDirectory(self, "Choose a subject, a database or a BIDS folder", edit.text())
            edit.setText(name or edit.text())

        return self._small_button(QStyle.StandardPixmap.SP_DirIcon, browse, "Choose a folder")

    def _small_button(self, icon: QStyle.StandardPixmap, clicked: Callable[[], None], tip: str) -> QPushButton:
        made = button("", clicked, tip)
        made.setIcon(self.style().standardIcon(icon))
        made.setMaximumWidth(32)
        return made

    def _open_files(self) -> None:
        scan, image, reference = (e.text().strip() for e in (self.scan, self.image, self.reference))
        if not scan:
            self.state.say(
                "Found no scan, expected a file or a folder. Choose one with the buttons beside the field.", error=True
            )
            return
        self.do.open_files(
            Path(scan),
            _SIDES[self.side.currentText()],
            Path(image) if image else None,
            Path(reference) if reference else None,
        )

    def _choose_session(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose an empty folder or a session")
        if folder:
            self.do.open_session(Path(folder))

    def _open_case(self, row: int) -> None:
        self.do.open_case(self._shown.keys[row])

    def showEvent(self, event: Any) -> None:  # noqa: N802  Qt's name
        """Look through the session again: something else may have been prepared into it meanwhile."""
        super().showEvent(event)
        self.do.list_again()

    def _refresh(self, _value: object = None) -> None:
        session, listing = self.state.session, self.state.listing
        if session is not None:
            self.session_name.setText(
                f"{session.root}<br>{len(listing.keys)} cases, {len(listing.corrected)} corrected"
            )
        if listing.keys != self._shown.keys:
            self._rows = {key: row for row, key in enumerate(listing.keys)}
            self.cases.clear()
            self.cases.addItems([self._entry(key, listing) for key in listing.keys])
        else:
            self._write(listing.corrected ^ self._shown.corrected, listing)
        self._shown = listing
        self._offer_next()

    def _mark_ready(self, ready: frozenset[CaseKey]) -> None:
        """Say of which cases the prediction is there already."""
        changed, self._ready = ready ^ self._ready, ready
        self._write(changed, self._shown)

    def _write(self, changed: frozenset[CaseKey], listing: Listing) -> None:
        for key in changed:
            if key in self._rows:
                self.cases.item(self._rows[key]).setText(self._entry(key, listing))

    def _entry(self, key: CaseKey, listing: Listing) -> str:
        word = "corrected" if key in listing.corrected else "predicted" if key in self._ready else ""
        return f"{key.stem}   {word}".rstrip()

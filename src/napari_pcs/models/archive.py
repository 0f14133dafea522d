"""A model in one file, to be given to others: its folder as a zip archive."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from napari_pcs.errors import ModelError
from napari_pcs.models.adapter_files import BASE, CONFIG, WEIGHTS
from napari_pcs.models.folders import ModelFolder, require_model_name
from napari_pcs.models.store import load_network

__all__ = ["export_model", "import_archive"]

_WHOLE = ("config.json", "digest", "weights.safetensors")
_ADAPTER = ("config.json", "digest", BASE, CONFIG, WEIGHTS)
_OPTIONAL = ("card.md", "lineage.json")
_FILES = (*dict.fromkeys((*_WHOLE, *_ADAPTER)), *_OPTIONAL)
_LARGEST = {"weights.safetensors": 8 * 2**30, WEIGHTS: 8 * 2**30}
_LARGEST_TEXT = 2**20
_CHUNK = 2**20


def export_model(model: ModelFolder, target: Path) -> Path:
    """Write a model as a zip archive that `import_archive` reads back.

    Only the files that make a model go in; it is checked first, so that nobody is given a broken one.
    Of an adapter, the archive holds no more than the adapter: whoever imports it needs its base.

    Parameters
    ----------
    model
        Its folder.
    target
        The archive; must not exist and must end in .zip.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or the archive exists or cannot be written.
    """
    if target.suffix.lower() != ".zip" or target.exists():
        found = "an existing file" if target.exists() else f"the ending {target.suffix or 'of none'}"
        msg = f"{target.name}: found {found}, expected a new file that ends in .zip."
        raise ModelError(msg)
    load_network(model)
    temporary = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in (*(_ADAPTER if model.is_adapter else _WHOLE), *_OPTIONAL):
                if (model.path / name).exists():
                    kind = zipfile.ZIP_STORED if name in _LARGEST else zipfile.ZIP_DEFLATED
                    archive.write(model.path / name, f"{model.name}/{name}", kind)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        why = error.strerror or error
        msg = f"{target.name}: could not be written to {target.parent} ({why}). Choose another folder."
        raise ModelError(msg) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return target


def import_archive(source: Path, folder: Path, name: str | None = None) -> ModelFolder:
    """Read an exported model into a folder of models.

    Nothing leaves the new model's own folder, whatever paths the archive names; and it is loaded
    once, against its digest, before it gets its name. An adapter's base has to be there already.

    Parameters
    ----------
    source
        The archive.
    folder
        Where models lie.
    name
        Of the model; as it was exported if None.

    Raises
    ------
    ModelError
        If the archive is damaged, holds anything but one model, the name is taken, or it is an
        adapter of a model that is neither in the folder nor shipped.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members, exported = _members(source, archive)
            target = folder / require_model_name(name or exported)
            if target.exists():
                msg = f"Model {target.name}: found a model of that name already, expected a new name."
                raise ModelError(msg)
            folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".import-", dir=folder))
            try:
                unpacked = staging / target.name
                unpacked.mkdir()
                for file, member in members.items():
                    (unpacked / file).parent.mkdir(exist_ok=True)
                    with archive.open(member) as packed, (unpacked / file).open("wb") as stream:
                        shutil.copyfileobj(packed, stream, _CHUNK)
                        stream.flush()
                        os.fsync(stream.fileno())
                load_network(ModelFolder(unpacked), bases=folder)
                unpacked.replace(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        msg = f"{source.name}: found an archive that cannot be read or unpacked ({error}), expected an exported model."
        raise ModelError(msg) from error
    return ModelFolder(target)


def _members(source: Path, archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """Return the archive's files by name, and the name of the model.

    Raises
    ------
    ModelError
        If anything else is in it.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for info in archive.infolist():
        if info.is_dir():
            continue
        folder, _, file = info.filename.partition("/")
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        largest = _LARGEST.get(file, _LARGEST_TEXT)
        if link or file not in _FILES or file in found or info.file_size > largest:
            msg = (
                f"{source.name}: found {info.filename!r} ({info.file_size} bytes) in it, expected one folder with"
                f" {', '.join(_FILES)}. Nothing was unpacked."
            )
            raise ModelError(msg)
        found[file] = info
        folders.add(folder)
    required = _ADAPTER if BASE in found or WEIGHTS in found else _WHOLE
    missing = [name for name in required if name not in found]
    extra = [name for name in found if name not in (*required, *_OPTIONAL)]
    if missing or extra or len(folders) != 1:
        what = f"no {', '.join(missing)}" if missing else f"{len(folders)} folders"
        what = f"an adapter and {', '.join(extra)}" if extra and not missing else what
        msg = f"{source.name}: found {what} in it, expected one exported model. Nothing was unpacked."
        raise ModelError(msg)
    return found, folders.pop()

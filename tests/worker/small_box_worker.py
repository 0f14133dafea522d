"""The real worker, whose networks see little of a hemisphere and are quick."""

import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, __file__)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from networks import look_through_a_small_box

    from napari_pcs.worker.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        sys.exit(main())

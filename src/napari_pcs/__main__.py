"""`python -m napari_pcs` is `napari-pcs`."""

from napari_pcs.cli import main

if __name__ == "__main__":
    main()

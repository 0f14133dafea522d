"""The napari plugin: one evented state per viewer, and widgets that only wire it to controls."""

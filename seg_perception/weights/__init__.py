"""The shipped model lies here: see `seg_perception.core.files.DEFAULT_MODEL`."""

"""The shipped model lies here: see `seg_perception.core.resources.DEFAULT_MODEL`."""

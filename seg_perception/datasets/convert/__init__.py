"""Annotations of other tools into folders of images and label files, and back: one file a format.

Every module of this folder with a FORMAT is one; `dataset convert` and `dataset export` find it by that.
"""

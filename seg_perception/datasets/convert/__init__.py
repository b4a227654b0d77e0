"""Annotations of other tools into folders of images and label files, and back: one file a tool.

Every `Format` of a module of this folder is one; `dataset convert` finds it by that.
"""

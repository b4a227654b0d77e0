"""The ten driving classes as constants, so that painting code reads as words.

The ids are those of the shipped label set `driving`; a test holds the two together.
"""

from __future__ import annotations

from enum import IntEnum


class SceneClass(IntEnum):
    """Class ids in the label images of `seg_perception.scenes`."""

    ROAD = 0
    SIDEWALK = 1
    POLE = 2
    TRAFFIC_LIGHT = 3
    TRAFFIC_SIGN = 4
    VEGETATION = 5
    TERRAIN = 6
    SKY = 7
    CAR = 8
    BACKGROUND = 9

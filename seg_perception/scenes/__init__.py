"""Procedural driving scenes with exact labels: the data this package is allowed to ship."""

from seg_perception.scenes.drive import Drive, SceneFrame, random_scene
from seg_perception.scenes.weather import Weather

__all__ = ["Drive", "SceneFrame", "Weather", "random_scene"]

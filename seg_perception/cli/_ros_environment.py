"""Environment variables for the middleware. Each must be set before the process's first ROS node."""

from __future__ import annotations

import os

from seg_perception.core.resources import share_path

_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # the same by two names


def use_profile_for_large_images() -> None:
    """Give Fast DDS room for large images, unless the user has chosen a profile.

    With the default shared-memory segment, best-effort subscribers (such as the node) lose most
    images of 1280x720 and more.
    """
    if any(os.environ.get(name) for name in _PROFILE_VARIABLES):
        return
    try:
        profile = share_path("config/fastdds_large_images.xml")
    except FileNotFoundError:
        return  # an installation without it works, with Fast DDS's own defaults
    for name in _PROFILE_VARIABLES:
        os.environ[name] = str(profile)


def stay_by_ourselves() -> None:
    """Keep the traffic on this machine and in a domain of its own, unless the user has chosen one."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

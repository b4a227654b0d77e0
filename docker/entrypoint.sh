#!/bin/bash
# Sources ROS 2 and the workspace, then becomes the command.
set -eo pipefail
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /ws/install/setup.bash
exec "$@"

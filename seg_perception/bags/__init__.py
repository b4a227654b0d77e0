"""rosbag2 bags (MCAP and SQLite) in and out, without a ROS installation."""

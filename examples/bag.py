"""A bag: write a copy with the model's answers, then read both without ROS.

python examples/bag.py drive.mcap drive_segmented.mcap

Reads rosbag2 folders, .mcap and .db3 files. The outputs carry their image's header, to the nanosecond, and the
node's own topic names, so whatever listens to the node can be tried on the new bag.
"""

import sys

import seg_perception as sp

if len(sys.argv) < 3:
    sys.exit(__doc__)
source, out = sys.argv[1], sys.argv[2]

report = sp.process_bag(source, out, sp.ProcessSettings(outputs=("labels", "confidence", "drivable", "overlay")))
print(f"{report.segmented} of {report.frames} images segmented: {out}")
for reason, count in report.rejected.items():
    print(f"{count} rejected: {reason}")

# The same answers, one by one, without writing anything:
with sp.load() as model:
    for result in model.stream(source):
        share = (result.drivable > 0).mean()
        print(f"{result.stamp_ns} ns   {100 * share:5.1f} % drivable")

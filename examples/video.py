"""A video, frame by frame: when is the way ahead free?

python examples/video.py drive.mp4

The source may as well be a folder, a bag, a camera's index (0) or a URL. A camera gives its newest frame
each time, so that slow work here does not make the answers late.
"""

import sys

import seg_perception as sp

if len(sys.argv) < 2:
    sys.exit(__doc__)
source = sys.argv[1]

# The mask grows only where three frames in a row agree, and shrinks at once.
steady = sp.DrivableSettings(min_confidence=0.6, appear_frames=3)

with sp.load(drivable=steady) as model:
    for result in model.stream(source):
        height, width = result.drivable.shape
        ahead = result.drivable[height // 2 :, width // 3 : 2 * width // 3]
        seconds = (result.stamp_ns or 0) / 1e9
        print(f"{seconds:7.2f} s   {100 * (ahead > 0).mean():5.1f} % of the area ahead is drivable")

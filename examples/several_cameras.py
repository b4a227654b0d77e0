"""Several cameras in one run of the engine, as on a robot.

python examples/several_cameras.py front.jpg left.jpg right.jpg

Images may differ in size: equal network sizes share one run. For images of your own camera driver, give
arrays: uint8 [H, W, 3] in RGB order. OpenCV reads BGR: cv2.cvtColor(image, cv2.COLOR_BGR2RGB) first.
"""

import sys
import time

import seg_perception as sp

if len(sys.argv) < 2:
    sys.exit(__doc__)
cameras = sys.argv[1:]

with sp.load() as model:
    model.batch(cameras)  # the first run of an engine is slow
    began = time.perf_counter()
    results = model.batch(cameras)
    milliseconds = 1000 * (time.perf_counter() - began)

for camera, result in zip(cameras, results):
    road = result.shares()["road"]
    print(f"{camera}: {result.size}, {100 * road:.1f} % road")
print(f"{len(cameras)} cameras in {milliseconds:.0f} ms, files read included")

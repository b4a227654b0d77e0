"""What the commands do, as Python functions of the same names: `seg_perception.evaluate(...)` and so on.

Modules of their own have `predict` (`prediction.py`), `export` (`export/exporting.py`), `process_bag`
(`bags/processing.py`) and `compile` (`engines/tensorrt/compilation.py`). The rooms are imported when a function
is called: most need torch, ONNX or bag libraries.
"""

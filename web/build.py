"""Put the page, the WebAssembly runtime and a model into one folder that any web server can serve.

npm ci --prefix web --ignore-scripts && python web/build.py --out out/web && python -m http.server -d out/web
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from seg_perception.core.files import DEFAULT_MODEL
from seg_perception.engines.graph.model_file import read_card

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "style.css", "app.js", "pixels.js")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/web"), help="(default: %(default)s)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="(default: the shipped model)")
    arguments = parser.parse_args()
    runtime = HERE / "node_modules" / "onnxruntime-web" / "dist"
    if not runtime.is_dir():
        print(f"{runtime} is missing: npm ci --prefix {HERE} --ignore-scripts", file=sys.stderr)
        return 2
    card = read_card(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for source in (*(HERE / name for name in PAGE), *(runtime / name for name in RUNTIME)):
        shutil.copy2(source, arguments.out / source.name)
    shutil.copy2(arguments.model, arguments.out / "model.onnx")
    document = card.to_json().replace('"format"', f'"id": "{card.id}", "format"', 1)
    (arguments.out / "model.json").write_text(document, encoding="utf-8")
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.0f} MB; look at it: python -m http.server -d {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

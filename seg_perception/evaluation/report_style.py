"""How a report looks."""

from __future__ import annotations

STYLE = """
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; background: #fff;
       max-width: 1100px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; margin-top: 2.6rem; border-bottom: 2px solid #2563a8; padding-bottom: .25rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
h4 { margin: 1.2rem 0 .2rem; }
.note { color: #666; font-size: .88rem; margin: .2rem 0 .6rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .28rem .65rem; text-align: left; border-bottom: 1px solid #e3e3e3; vertical-align: bottom; }
th { background: #f4f6f8; font-weight: 600; }
tbody tr:hover { background: #f8fafc; }
.numbers td { white-space: nowrap; font-variant-numeric: tabular-nums; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border: 1px solid #888;
          vertical-align: -.1em; }
.up { color: #1b7f3b; font-size: .85em; } .down { color: #b3261e; font-size: .85em; }
img { max-width: 100%; height: auto; }
.plot { margin: .6rem 0; }
.panels { display: grid; grid-template-columns: repeat(5, 1fr); color: #666; font-size: .85rem; text-align: center; }
figure { margin: .9rem 0; } figcaption { font-size: .85rem; color: #444; }
details { margin: .6rem 0; } summary { cursor: pointer; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media print { h2, figure { break-inside: avoid; } body { margin: 0; } }
"""

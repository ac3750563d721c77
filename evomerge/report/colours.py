"""The colours of pages and pictures, light and dark."""

from __future__ import annotations

INK, SOFT, LINE, PAPER = "#1d2733", "#51606f", "#dde3e9", "#ffffff"
ACCENT, WARM, BAD, GREY, PALE = "#1f6feb", "#b45309", "#c0392b", "#8b98a5", "#a9c7f5"

VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    ACCENT: "accent",
    WARM: "warm",
    BAD: "bad",
    GREY: "grey",
    PALE: "pale",
}
"""Colour of a picture -> the variable of the page that takes its place."""

_DARK = {
    "ink": "#e4e9ee",
    "soft": "#a7b3bf",
    "line": "#33404d",
    "paper": "#12171d",
    "panel": "#1b232b",
    "accent": "#6ea8fe",
    "warm": "#f0a04b",
    "bad": "#f28b82",
    "grey": "#7d8a97",
    "pale": "#3a5f94",
}

_LIGHT = {name: colour for colour, name in VARIABLES.items()} | {"paper": PAPER, "panel": "#f4f6f8"}


def _variables(colours: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"


STYLE = (
    _variables(_LIGHT)
    + f"@media screen and (prefers-color-scheme: dark){{{_variables(_DARK)}}}"
    + """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 58rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin-top: 1.6rem; }
h4 { font-size: .9rem; margin: 1rem 0 .2rem; }
p.lead, figcaption, small { color: var(--soft); }
p.lead { margin-top: 0; }
p.verdict { font-size: 1.15rem; font-weight: 600; border-left: .3rem solid var(--accent);
  padding-left: .8rem; }
p.verdict.no { border-color: var(--warm); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
table.terms td { text-align: left; overflow-wrap: anywhere; }
table.terms th { font-weight: 400; color: var(--soft); }
tr.marked td { font-weight: 600; } tr.marked small { font-weight: 400; }
small { white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { font-size: .85rem; }
svg { width: 100%; max-width: 38rem; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
details table { font-size: .85rem; } .scroll { overflow-x: auto; }
table.examples th, table.examples td { text-align: left; }
pre { background: var(--panel); padding: .8rem; overflow-x: auto; font-size: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
table.examples pre { max-width: 24rem; }
@media (max-width: 600px) {
  body { margin: 1rem auto; font-size: 15px; }
  th, td { padding: .25rem .35rem; font-size: .85rem; }
  td small { display: block; }
}
@media print {
  body { margin: 0; max-width: none; font-size: 11pt; }
  .scroll { overflow: visible; } table { font-size: 9pt; } th, td { padding: .15rem .3rem; }
  figure, table { break-inside: avoid; } table.examples { break-inside: auto; }
  h2, h3, h4 { break-after: avoid; } svg { max-width: 30rem; } small { white-space: normal; }
}
"""
)

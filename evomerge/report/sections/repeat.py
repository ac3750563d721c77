"""How to repeat it: commands, versions, fingerprints, the search file, all candidates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from evomerge.report.markup import code, folded, paragraph, table, terms
from evomerge.report.names import short_names
from evomerge.report.reproduce import lm_eval_command
from evomerge.report.rows import candidate_rows
from evomerge.report.sampled import sampling_note
from evomerge.report.view import View
from evomerge.run.folder import CONFIG


def repeat(view: View) -> list[str]:
    """Return the section."""
    run = shlex.quote(str(view.run.path))
    commands = [
        "# the text under `search file` below, as search.yaml",
        "evomerge search search.yaml --run runs/again",
        "# the best candidate as an ordinary checkpoint",
        f"evomerge export {run} --out MODEL_DIR",
    ]
    lm_eval = lm_eval_command(view.run, view.config, view.best)
    if lm_eval is not None:
        commands += ["# its test score, by lm-eval itself", lm_eval]
    parts = ["<h2>How to repeat it</h2>", code("\n".join(commands))]
    frozen = view.config.frozen
    note = sampling_note(frozen.sampled) if frozen is not None else None
    parts += [] if note is None else [paragraph(note)]
    if frozen is not None and frozen.versions:
        parts += ["<h3>Versions</h3>", terms(frozen.versions)]
    if frozen is not None and frozen.parents:
        names = short_names(frozen.parents)
        shown = {names[parent]: digest for parent, digest in frozen.parents.items()}
        parts += ["<h3>Fingerprints of the parents</h3>", terms(shown)]
    rows = candidate_rows(view.history, view.objectives)
    return [
        *parts,
        folded("search file", code(_search_file(view))),
        folded(f"all {len(rows)} candidates", _rows(rows)),
    ]


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    names = [name for name in rows[0] if name != "digest"]
    return table(names, [[_cell(row[name]) for name in names] for row in rows])


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _search_file(view: View) -> str:
    """Return the search file as it was given, without what was added to it at the start."""
    text = (view.run.path / CONFIG).read_text(encoding="utf-8")
    return text.split("\nfrozen:")[0]

"""What did it cost? Time by phase, memory, and documents."""

from __future__ import annotations

from evomerge.report.amounts import duration, size_text
from evomerge.report.markup import paragraph, table
from evomerge.report.view import View
from evomerge.scores import SPLITS


def cost(view: View) -> list[str]:
    """Return the section."""
    spent, hours = view.run.timings.spent(), view.run.timings.hours()
    documents = {
        split: sum(
            sum(scores.fidelity.values())
            for item in view.history.candidates
            if (scores := item.scores(split)) is not None
        )
        for split in SPLITS
    }
    scored = ", ".join(f"{count:,} {split}" for split, count in documents.items() if count)
    parts = ["<h2>What did it cost?</h2>"]
    lead = (
        f"{duration(3600 * hours)} of work over all sessions; documents scored: {scored or 'none'}."
    )
    parts.append(paragraph(lead))
    peak = view.run.timings.peak()
    if "process" in peak:
        sizes = [size_text(peak["process"]), "with the mapped files of the parents"]
        if "accelerator" in peak:
            sizes.append(f"and {size_text(peak['accelerator'])} of accelerators")
        memory = ", ".join(sizes)
        parts.append(paragraph(f"Peak memory of a process that scored candidates: {memory}."))
    if spent:
        rows = [
            (phase, f"{item.seconds:,.1f}", "-" if item.cpu_seconds is None else
             f"{item.cpu_seconds:,.1f}")
            for phase, item in spent.items()
        ]  # fmt: skip
        parts.append(table(("phase of all candidates", "seconds", "CPU seconds"), rows))
    return parts

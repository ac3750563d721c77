"""The command `list`: merge methods, optimizers, executors, spaces and embedded parents."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from evomerge.cli import options, terminal

if TYPE_CHECKING:
    from evomerge.merging.methods.method import Knob, Method

_COSTLY = "; costly: for `evomerge merge`, which builds once"


Listed = StrEnum("Listed", ["methods", "optimizers", "executors", "spaces", "parents"])


def list_(what: Listed, as_json: options.JsonOption = False) -> None:
    """List methods, optimizers, executors, spaces or embedded parents."""
    rows = {
        "methods": _methods,
        "optimizers": _optimizers,
        "executors": _executors,
        "spaces": _spaces,
        "parents": _parents,
    }[what]()
    if what is Listed.methods and terminal.out.is_terminal and not as_json:  # 80 columns are few
        rows = [{"name": row.pop("name"), "about": terminal.text_of(row)} for row in rows]
    terminal.print_json(rows) if as_json else terminal.print_rows(rows, "name")


def _methods() -> list[dict[str, Any]]:
    from evomerge.merging.methods import get_method, method_names

    rows = []
    for name in method_names():
        method = get_method(name)
        fewest, most = method.parents
        count = f"{fewest}+" if most is None else f"{fewest}-{most}"
        rows.append(
            {
                "name": name,
                "title": method.title + (_COSTLY if method.costly else ""),
                "parents": str(fewest) if fewest == most else count,
                "base": method.base,
                "knobs": [_knob(method, knob) for knob in method.knobs],
                "paper": method.paper,
            }
        )
    return rows


def _knob(method: Method, knob: Knob) -> str:
    """Return `name (scope, range, default)`, and the kind of its gradient, if it has one."""
    default = "required" if knob.default is None else f"{knob.default:g}"
    kind = "smoothed " if knob.name in method.smoothed else "exact " if method.gradients else ""
    gradient = f", {kind}gradient" if knob.is_smooth else ""
    scope = "each parent" if knob.per == "source" else "merge"
    return f"{knob.name} ({scope}, {knob.low:g}..{knob.high:g}, {default}{gradient})"


def _optimizers() -> list[dict[str, Any]]:
    from evomerge.strategy.kinds import strategy_names

    return _about(strategy_names())


def _executors() -> list[dict[str, Any]]:
    from evomerge.config.executor import EXECUTORS

    return _about({name: EXECUTORS.get(name).about for name in EXECUTORS.names()})


def _spaces() -> list[dict[str, Any]]:
    from evomerge.config.space import ABOUT

    return _about(ABOUT)


def _about(every: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "about": about} for name, about in every.items()]


def _parents() -> list[dict[str, Any]]:
    from evomerge import zoo
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.models.parts import kind_of

    return [
        {
            "name": opened.reference,
            "kind": kind_of(opened),
            "architecture": (opened.config.get("architectures") or ["?"])[0],
            "layers": len(opened.decoder_stack),
            "parameters": opened.parameters,
        }
        for opened in (Checkpoint.open(zoo.path(name), f"zoo:{name}") for name in zoo.names())
    ]

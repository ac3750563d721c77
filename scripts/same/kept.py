"""What is kept of a search and of a model, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def journal(path: Path) -> dict[str, Any]:
    """Return what a journal says, whatever stands before the object of a line."""
    candidates: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {"candidates": candidates, "winner": None}
    for line in path.read_text().splitlines():
        event = json.loads(line[line.index("{") : line.rindex("}") + 1])
        kind, number = event.get("event"), str(event.get("candidate"))
        if kind == "ask":
            keys = ("label", "generation", "origin")
            candidates[number] = {key: event[key] for key in keys if key in event}
        elif kind in ("tell", "complete", "score"):
            split = event.get("split", {"tell": "search"}.get(kind, kind))
            candidates[number][split] = (
                candidates[str(event["same_as"])]["search"]
                if "same_as" in event
                else _outcome(event)
            )
            if "values" in event:
                candidates[number][f"{split} fitness"] = event["values"]
        elif kind == "winner":
            result |= {"winner": event["candidate"], "front": sorted(event.get("front", ()))}
    return result


def _outcome(event: Mapping[str, Any]) -> Any:
    if "failure" in event:
        return f"failed: {event['failure']['stage']}"
    keys = ("documents", "values", "aggregates", "expected")
    return {key: event["scores"][key] for key in keys if key in event["scores"]}


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Yield name, dtype, shape and bytes of all tensors of a model, by name."""
    found = {}
    for file in folder.rglob("*.safetensors"):
        data = file.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        for name, about in header.items():
            low, high = (begin + place for place in about["data_offsets"])
            key = f"{file.parent.relative_to(folder)}/{name}"
            found[key] = (about["dtype"], about["shape"], data[low:high])
    for key, tensor in sorted(found.items()):
        yield key, *tensor


def model(folder: Path) -> dict[str, Any]:
    """Return a digest of all weights of a model, and one of each file beside them."""
    if not folder.exists():
        return {}
    total, count = hashlib.sha256(), 0
    for name, dtype, shape, data in _tensors(folder):
        total.update(f"{name}:{dtype}:{shape}\n".encode() + data)
        count += 1
    files = {}
    for file in sorted(folder.rglob("*.j*")):
        if not file.name.endswith(".index.json"):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            files[str(file.relative_to(folder))] = digest
    return {"tensors": count, "weights": total.hexdigest(), "files": files}


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Yield the place of each value that differs, and both values.

    Args:
        before, after: plain JSON.
        place: where they are, such as `/candidates/3/search/values`.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            path = f"{place}/{key}"
            yield from differences(before.get(key), after.get(key), path)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif before != after and not (before != before and after != after):
        yield f"{place}: {str(before)[:80]} -> {str(after)[:80]}"


def distance(before: Path, after: Path) -> list[str]:
    """Return one line that says how far the weights of two models are from each other."""
    import torch

    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    ours, theirs = ({name: item for name, *item in _tensors(at)} for at in (before, after))
    common = ours.keys() & theirs.keys()
    differing = [name for name in common if ours[name] != theirs[name]]
    worst = (0.0, "")
    for name in differing:
        (kind, shape, a), (other, same, b) = ours[name], theirs[name]
        if kind in kinds and other in kinds and shape == same:
            x, y = (
                torch.frombuffer(bytearray(data), dtype=kinds[k]).double()
                for k, data in ((kind, a), (other, b))
            )
            worst = max(worst, (float((x - y).norm() / x.norm().clamp_min(1e-30)), name))
    others = len(ours.keys() ^ theirs.keys())
    if not differing and not others:
        return []
    told = f"{len(differing)} of {len(common)} tensors differ, {others} are in one model only"
    return [f"{told}; the largest distance is {worst[0]:.1e} of the norm ({worst[1]})"]

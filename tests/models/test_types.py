"""Parents of different model types: merged with a warning."""

from pathlib import Path

import pytest
import seeing
import tiny

import evomerge
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import type_notes


def test_a_merge_of_two_model_types_is_warned_of_once(tmp_path: Path) -> None:
    for kind in ("llama", "mistral"):
        tiny.make(tmp_path / kind, kind)
    text = f"models: [{{model: {tmp_path}/llama}}, {{model: {tmp_path}/mistral}}]\n"
    (tmp_path / "merge.yml").write_text(f"{text}merge_method: linear\nparameters: {{weight: 1}}\n")
    with pytest.warns(UserWarning, match="different model types: llama .*, mistral") as found:
        evomerge.merge(tmp_path / "merge.yml", tmp_path / "out")
    assert len([item for item in found if "model types" in str(item.message)]) == 1


def test_a_language_model_inside_of_a_vision_model_counts_with_its_own_type(tmp_path: Path) -> None:
    llava, llama, mistral = (
        Checkpoint.open(tiny.make(tmp_path / kind, kind), kind)
        for kind in ("llava", "llama", "mistral")
    )
    assert type_notes([llava, llama, llama]) == []
    assert "llama (llava), mistral (mistral)" in type_notes([llava, llama, mistral])[0]
    assert "is a mistral model" in type_notes([mistral, llama])[0]


@pytest.mark.parametrize("family", seeing.FAMILIES)
def test_a_vision_model_and_its_text_model_are_of_one_type(family: str, tmp_path: Path) -> None:
    """That they compute the same is in tests/merging/architecture/test_vision.py."""
    parts = (family, f"{family}/text")
    models = [seeing.make(tmp_path / str(i), part) for i, part in enumerate(parts)]
    assert type_notes(models) == []

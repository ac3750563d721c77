"""Which tensors are the head of a classifier, and what parents with other labels or none lack."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.naming import fitting
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import head_of

_SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0,
}  # fmt: skip

HEADS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "bert": ("Bert", {}, {"classifier"}),
    # The prefix of the body is not the name of the type.
    "xlm-roberta": ("XLMRoberta", {}, {"classifier.dense", "classifier.out_proj"}),
    "camembert": ("Camembert", {}, {"classifier.dense", "classifier.out_proj"}),
    "deberta-v2": ("DebertaV2", {}, {"classifier", "pooler.dense"}),
    "modernbert": ("ModernBert", {}, {"classifier", "head.dense", "head.norm"}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 8}, {"score"}),
    "bart": (
        "Bart",
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2},
        {"classification_head.dense", "classification_head.out_proj"},
    ),
}
"""Type -> its name in classes, sizes beside the usual ones, and the modules of its head."""


@pytest.mark.parametrize("kind", HEADS)
def test_parents_give_the_body_and_a_head_of_the_same_labels(kind: str, tmp_path: Path) -> None:
    name, sizes, head = HEADS[kind]
    make = getattr(transformers, f"{name}Config")
    for place, labels in (("host", "abc"), ("same", "abc"), ("turned", "cab"), ("other", "xyz")):
        config = make(**_SIZES, **sizes, id2label=dict(enumerate(labels)))
        with tiny.quiet():
            model = getattr(transformers, f"{name}ForSequenceClassification")(config)
            model.save_pretrained(tmp_path / place)
    with tiny.quiet():
        getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path / "base")
    given = {item.name: Checkpoint.open(item, item.name) for item in tmp_path.iterdir()}
    turned = given.pop("turned")
    with pytest.raises(CheckpointError, match="labels in different orders"):
        fitting({"host": given["host"], "turned": turned}, "host", vocabularies=True)
    found = fitting(given, "host", vocabularies=True)
    host = found["host"]
    assert {item.rpartition(".")[0] for item in head_of(host)} == head
    assert not found["same"].lacks
    for place in ("other", "base"):
        assert found[place].lacks == frozenset(head_of(host))
        assert found[place].fingerprint == given[place].fingerprint

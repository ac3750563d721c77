"""Which architectures can serve paths by an engine of a fixed depth."""

import pytest
import tiny
import transformers

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.identity import check_identity_layers, has_fixed_layers
from evomerge.models.checkpoint import Checkpoint


def opened(folder, architecture, **changes):
    return Checkpoint.open(tiny.make(folder, architecture, tokenizer=False, **changes), "a")


@pytest.mark.parametrize(
    "architecture",
    ["llama", "mistral", "qwen2", "qwen3", "phi3", "gpt_neox", "gpt2", "olmo2", "granite",
     "mixtral", "qwen3_moe", "gemma3"],
)  # fmt: skip
def test_layers_of_one_kind_can_be_moved_and_completed(architecture, tmp_path):
    """The norms of Gemma multiply by 1 + weight, also those behind the branches."""
    kinds = {"layer_types": ["full_attention"] * 3} if architecture == "gemma3" else {}
    check_identity_layers({"a": opened(tmp_path / "a", architecture, **kinds)}, "a")


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("gemma2", {}, "differ in layer_types .*sliding_attention.*full_attention"),
        ("gemma3", {}, "differ in layer_types"),
        ("smollm3", {}, "differ in no_rope_layers .1, 0."),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "differ in mlp_only_layers .true, false"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "differ in the tensor mlp"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "different things at different pos"),
    ],
)
def test_layers_that_depend_on_their_position_are_refused(architecture, changes, reason, tmp_path):
    found = {"a": opened(tmp_path / "a", architecture, **changes)}
    with pytest.raises(CheckpointError, match=rf"evaluation.backend.*'a'.*{reason}.*'hf'\."):
        check_identity_layers(found, "a")


def test_a_block_that_is_normalised_as_a_whole_is_no_identity(tmp_path):
    config = transformers.OpenAIGPTConfig(vocab_size=48, n_embd=16, n_layer=3, n_head=2)
    with tiny.quiet():
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="no identities if their weights are zero"):
        check_identity_layers({"a": Checkpoint.open(tmp_path / "a", "a")}, "a")


def test_parents_whose_layers_are_of_different_kinds_are_refused(tmp_path):
    def make(name, kind, depth=3):
        kinds = {"layer_types": [f"{kind}_attention"] * depth, "num_hidden_layers": depth}
        return opened(tmp_path / name, "gemma3", **kinds)

    full, sliding, shallow = make("a", "full"), make("b", "sliding"), make("c", "full", 2)
    with pytest.raises(CheckpointError, match="differ in layer_types"):
        check_identity_layers({"a": full, "b": sliding}, "a")
    for other, is_fixed in ((full, True), (sliding, False), (shallow, False)):
        assert has_fixed_layers({"a": full, "b": other}, "a") == is_fixed

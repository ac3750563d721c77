"""The adapters of configs/adapters.yaml are those that the script makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scripts.zoo.adapters import write_all

ADAPTERS = Path(__file__).parents[2] / "configs" / "adapters"

pytestmark = pytest.mark.thorough


def test_the_adapters_are_cut_from_the_experts(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in ADAPTERS.iterdir())
    for made in tmp_path.iterdir():
        kept = ADAPTERS / made.name
        config = "adapter_config.json"
        assert (made / config).read_text() == (kept / config).read_text()
        ours, theirs = (load_file(at / "adapter_model.safetensors") for at in (made, kept))
        assert ours.keys() == theirs.keys()
        for a in (name for name in ours if "lora_A" in name or "embedding_A" in name):
            b = a.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")
            # Another LAPACK may turn the sign of a row of A and of a column of B.
            changes = [item[b].float() @ item[a].float() for item in (ours, theirs)]
            torch.testing.assert_close(*changes, rtol=0, atol=2e-3)

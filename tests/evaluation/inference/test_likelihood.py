"""The attention masks of batches."""

from __future__ import annotations

import torch

from evomerge.evaluation.inference.likelihood import Batch, attention_mask
from evomerge.evaluation.inference.rows import Continuation, pack


def test_a_mask_shows_prefix_and_own_branch_only_within_the_window() -> None:
    class Config:
        sliding_window = 3
        layer_types = ("full_attention", "sliding_attention")

        def get_text_config(self) -> Config:
            return self

    class Model:
        config = Config()
        dtype = torch.float32

    rows = pack([Continuation((1, 2, 3, 4), (9,)), Continuation((1, 2, 5, 6), (9,))], [0, 1])
    masks = attention_mask(Model(), Batch.of(rows, 0, torch.device("cpu")))
    full, windowed = (masks[kind][0, 0] == 0 for kind in Config.layer_types)
    assert full[5].tolist() == [True, True, False, False, True, True]
    assert windowed[5].tolist() == [False, True, False, False, True, True]
    assert full[3].tolist() == [True, True, True, True, False, False]

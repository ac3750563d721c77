"""Merges of matrices as wholes: the papers' equations in numpy, and what they leave open."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import evomerge
from evomerge import zoo
from evomerge.merging.methods import get_method
from evomerge.models.checkpoint import Checkpoint
from evomerge.testing.methods import on_tensors


def models(shape, count, seed=1):
    """A base and `count` fine-tuned models of it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tuple(shape), generator=generator)
    return [base, *(base + torch.randn(tuple(shape), generator=generator) for _ in range(count))]


def merged(tensors, **knobs):
    base, *sources = tensors
    out = torch.empty(base.shape, dtype=torch.float32)
    merge = on_tensors(get_method("tsv").prepare)(sources, base, ())
    merge([{}] * len(sources), {"lambda": 1.0} | knobs, out)
    return out


def tsv(changes):
    share = min(changes[0].shape) // len(changes)
    parts = [np.linalg.svd(change, full_matrices=False) for change in changes]
    left = np.concatenate([u[:, :share] for u, _, _ in parts], axis=1)
    values = np.concatenate([s[:share] for _, s, _ in parts])
    right = np.concatenate([vh[:share] for _, _, vh in parts], axis=0)
    (p, _, q), (r, _, w) = (np.linalg.svd(x, full_matrices=False) for x in (left, right))
    return p @ q @ np.diag(values) @ r @ w


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 13), (40, 33)])
@pytest.mark.parametrize("count", [2, 3])
def test_a_matrix_is_merged_as_in_the_paper(shape, count):
    tensors = models(shape, count)
    base, *sources = (tensor.double().numpy() for tensor in tensors)
    expected = base + 0.7 * tsv([source - base for source in sources])
    np.testing.assert_allclose(merged(tensors, **{"lambda": 0.7}), expected, atol=3e-6)


def test_each_matrix_of_a_stack_is_merged_by_itself():
    stacks = models((3, 6, 4), 2)
    expected = [merged([stack[i] for stack in stacks]) for i in range(3)]
    assert torch.equal(merged(stacks), torch.stack(expected))


@pytest.mark.parametrize("shape", [(7,), (1, 9), (9, 1), (5, 1, 4), (2, 3, 4, 5), ()])
def test_what_is_no_matrix_gets_the_mean_of_the_task_vectors(shape):
    base, *sources = models(shape, 3)
    expected = base + 0.5 * sum(source - base for source in sources) / 3
    torch.testing.assert_close(merged([base, *sources], **{"lambda": 0.5}), expected)


def test_a_merged_checkpoint_has_the_mean_only_where_tokens_are(tmp_path):
    base, *experts = names = [f"zoo:{name}" for name in ("base", "language", "maths")]
    merge = {"merge_method": "tsv", "base_model": base, "dtype": "float32"}
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(merge | {"models": [{"model": name} for name in experts]}))
    model = Checkpoint.open(evomerge.merge(file, tmp_path / "model"), "merged")
    folders = (model.folder, *(zoo.path(name.removeprefix("zoo:")) for name in names))
    found, *parents = (load_file(next(folder.glob("*.safetensors"))) for folder in folders)
    matrix = next(name for name in found if "layers.1" in name and "down_proj" in name)
    assert torch.equal(found[matrix], merged([parent[matrix] for parent in parents]))
    token = [parent[model.embedding] for parent in parents]
    torch.testing.assert_close(found[model.embedding], (token[1] + token[2]) / 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_only_the_matrix_with_a_weight_that_is_not_finite_is_lost(value):
    base, *sources = models((2, 4, 4), 2)
    sources[1][0, 1, 2] = value
    out = merged([base, *sources])
    assert out[0].isnan().all() and out[1].isfinite().all()


def test_components_of_0_have_no_part_in_tsv():
    """Task vectors of rank 2, exact in float32."""
    generator = torch.Generator().manual_seed(4)
    draw = [torch.randint(-3, 4, (12, 2), generator=generator).float() for _ in range(4)]
    sources = [draw[i] @ draw[i + 1][:10].T for i in (0, 2)]
    u, s, vh = zip(*(np.linalg.svd(x.double(), full_matrices=False) for x in sources), strict=True)

    def nearest(columns):
        p, _, q = np.linalg.svd(columns, full_matrices=False)
        return p @ q

    left = nearest(np.concatenate([x[:, :2] for x in u], axis=1))
    right = nearest(np.concatenate([x[:2].T for x in vh], axis=1))
    expected = left @ np.diag(np.concatenate([x[:2] for x in s])) @ right.T
    np.testing.assert_allclose(merged([torch.zeros(12, 10), *sources]), expected, atol=1e-5)

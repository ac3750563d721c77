"""Parents of different kinds: what is merged of them, or one sentence that says why they cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers
import yaml

import evomerge
from evomerge.config.schema import SearchConfig, load, parse, read
from evomerge.errors import InputError
from evomerge.problem.parents import absolute_config, open_parents
from evomerge.problem.resolve import make_space

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"

OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "task": [{"task": "zoo_facts", "metric": "acc"}],
    "sts": [{"encoder": "sts", "file": "sts.jsonl"}],
    "labels": [{"classifier": "accuracy", "file": "labels.jsonl"}],
    "pairwise": [{"classifier": "pairwise", "file": "pairs.jsonl"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind, and files of rows."""
    pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("kinds")
    tiny.make(folder / "chat")
    tiny.make(folder / "t5", "t5")
    tiny.make(folder / "masked", "bert")
    tiny.make_encoder(folder / "sentences", dense=0)
    tiny.make_encoder(folder / "llama-sentences", architecture="llama", dense=0)
    tiny.make_classifier(folder / "moods")
    tiny.make_classifier(folder / "words", head="Token")
    tiny.make_classifier(folder / "llama-moods", "llama")
    tiny.make_classifier(folder / "judge", "llama", ["score"], template=TEMPLATE)
    with tiny.quiet():
        transformers.BertModel(tiny.CONFIGS["bert"]()).save_pretrained(folder / "body")
    tiny.save_tokenizer(folder / "body")
    texts = [" ".join(f"w{n % 44}" for n in (i, 3 * i, i // 44)) for i in range(60)]
    rows: dict[str, list[Any]] = {
        "sts": [{"sentence1": t, "sentence2": "w1 w2", "score": len(t)} for t in texts],
        "labels": [{"text": t, "label": ["bad", "good"][n % 2]} for n, t in enumerate(texts)],
        "pairs": [{"chosen": t, "rejected": "w1"} for t in texts],
    }
    for name, own in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    return folder


def validated(folder: Path, parents: str, objective: str) -> dict[str, Any]:
    search = {
        "parents": parents.split(),
        "dtype": "float32",
        "space": {"kind": "parameters", "method": "linear", "knobs": {"weight": [0, 1]}},
        "objectives": OBJECTIVES[objective],
        "evaluation": {
            "include": ["zoo:tasks"],
            "search": {"documents": 20},
            "validation": {"documents": 20},
            "test": {"documents": 10},
        },
        "budget": {"candidates": 5},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    return evomerge.validate(folder / "search.yaml")


MERGED = {
    ("moods masked", "labels"): "the body of masked (BertForMaskedLM) is merged; its cls.pred",
    ("moods body", "labels"): "the body of body (BertModel) is merged; the classifier of the host",
    ("moods sentences", "labels"): "is merged; its modules of sentence-transformers (with it as",
    ("moods words", "labels"): "the body of words (BertForTokenClassification) is merged; its clas",
    ("judge chat", "pairwise"): "the body of chat (LlamaForCausalLM) is merged; its lm_head",
    ("judge llama-moods", "pairwise"): "its labels are bad, good and those of the host score: if",
    ("sentences moods", "sts"): "BertForSequenceClassification) is merged; its classifier is left",
    ("chat llama-sentences", "task"): "the body of llama-sentences (LlamaModel) is merged; its mod",
}
"""Parents and objective -> what a warning says."""

REFUSED = {
    ("chat t5", "task"): "their architectures differ (llama and t5)",
    ("chat judge", "task"): "judge' a LlamaForSequenceClassification, and their heads differ",
    ("body masked", "sts"): "masked' a BertForMaskedLM, and their heads differ",
    ("judge chat", "task"): "is no causal language model (config.json: architectures LlamaForSeq",
    ("masked body", "task"): "body' a BertModel, and their heads differ",
    ("chat llama-sentences", "sts"): "has no modules.json, so nothing says how the vectors",
    ("words moods", "labels"): "is a BertForTokenClassification with 0 outputs (problem_type None)",
}
"""Parents and objective -> what the error says."""


@pytest.mark.parametrize("case", MERGED, ids=" ".join)
def test_what_is_not_merged_is_named(folder: Path, case: tuple[str, str]) -> None:
    told = validated(folder, *case)["warnings"]
    assert len([line for line in told if MERGED[case] in line]) == 1, told


def test_an_encoder_has_genes_of_a_head_only_where_something_reads_it(folder: Path) -> None:
    tiny.make_encoder(folder / "projecting", dense=8)
    for name, has_head in {"sentences": False, "projecting": True, "llama-sentences": True}.items():
        (folder / "twin").unlink(missing_ok=True)
        (folder / "twin").symlink_to(folder / name)
        genes = [gene["name"] for gene in validated(folder, f"{name} twin", "sts")["genes"]]
        assert any(gene.startswith("head.") for gene in genes) is has_head, name
        assert genes[0].startswith("embeddings.")
    (folder / "twin").unlink()
    (folder / "twin").symlink_to(folder / "sentences")
    validated(folder, "sentences twin", "sts")
    old = load(folder / "search.yaml"), ["head.weight"]
    function = read(folder / "search.yaml", ["objectives=[{task: 'my:own', metric: score}]"])
    own: tuple[SearchConfig, list[str]] = parse(function, "own"), []
    for (config, genes), why in (old, "runs go on"), (own, "a function may read the pooler"):
        config = absolute_config(config, folder)
        checkpoints, _ = open_parents(config, folder)
        assert make_space(config, checkpoints, genes).genes[-1].name.startswith("head."), why


@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_what_cannot_be_merged_is_one_sentence(folder: Path, case: tuple[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(folder, *case)
    told = str(caught.value)
    assert REFUSED[case] in told and told.endswith(".") and "\n" not in told

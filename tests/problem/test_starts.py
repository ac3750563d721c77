"""Warm starts: genomes of runs, in another search, and after its source is gone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import FAILED, asked, scores, told, write_run
from search_run import SMALL

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.problem.runs import prepare
from evomerge.space.protocol import Gene


def starts(where: Path, searched, *references: str):
    config = parse(SMALL | {"optimizer": {"start": list(references)}}, "search.yaml")
    return config.optimizer.starts(searched, where)


class Genes:
    """A space that is asked for its genes only."""

    def __init__(self, *genes: Gene) -> None:
        self.genes = genes


WEIGHT = Gene("weight", "real", 0.0, 1.0, 0.5)
METHOD = Gene("method", "choice", 0, 1, 0, choices=("ties", "slerp"))


def earlier(folder: Path) -> None:
    """Write a run whose best candidates are 3, 2, 1."""
    ranges = [
        {"genes": ["method"], "kind": "choice", "low": 0, "high": 1, "choices": ["ties", "slerp"]},
        {"genes": ["weight"], "kind": "real", "low": 0.0, "high": 2.0},
    ]
    genomes = [(0, 0.25), (1, 0.5), (0, 1.5), (1, 0.75)]
    events = [asked(0, "zoo:language"), told(0, scores(24))]
    for number, genome in enumerate(genomes, start=1):
        outcome = FAILED if number == 4 else scores(10 + number)
        events += [asked(number, genome=genome), told(number, outcome)]
    frozen = {"genes": ["method", "weight"], "gene_ranges": ranges}
    write_run(folder, events, frozen=frozen)


def test_genes_of_a_run_are_matched_by_name(tmp_path):
    earlier(tmp_path / "first")
    wide = replace(WEIGHT, high=2.0)
    found = starts(tmp_path, Genes(wide, METHOD), "run:first")
    assert found == ((1.5, 0.0), (0.5, 1.0), (0.25, 0.0))
    assert starts(tmp_path, Genes(WEIGHT, METHOD), "run:first", "run:first") == found[1:]


@pytest.mark.parametrize(
    ("genes", "sentence"),
    [
        ((WEIGHT,), "only that run has the gene 'method'"),
        ((WEIGHT, METHOD, replace(WEIGHT, name="b")), "only this search has the gene 'b'"),
        ((WEIGHT, replace(METHOD, choices=("slerp", "ties"))), "among ties, slerp; name the same"),
        ((replace(WEIGHT, high=0.1), METHOD), "no scored candidate in the ranges"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_in_one_sentence(tmp_path, genes, sentence):
    earlier(tmp_path / "first")
    with pytest.raises(ConfigError, match=f"optimizer.start has 'run:first': .*{sentence}"):
        starts(tmp_path, Genes(*genes), "run:first")


def test_a_search_tries_them_first_and_resumes_without_the_earlier_run(tmp_path):
    warm = SMALL | {
        "optimizer": {"name": "nevergrad:DE", "start": [f"run:{tmp_path / 'first'}"]},
        "evaluation": SMALL["evaluation"] | {"search": {"documents": 4}},
    }
    searched = prepare(parse(SMALL, "search.yaml"), tmp_path).space
    genomes = [tuple(x / 10 for _ in searched.genes) for x in (3, 7, 11)]
    events = []
    for number, genome in enumerate(genomes):
        events += [asked(number, genome=genome), told(number, scores(20 - number))]
    write_run(tmp_path / "first", events, frozen={"genes": [gene.name for gene in searched.genes]})
    run = evomerge.search(warm, tmp_path / "second", candidates=4, progress=False)
    shutil.rmtree(tmp_path / "first")
    run = evomerge.resume(run, candidates=7, progress=False)
    proposed = [item for item in run.history.candidates if item.label is None]
    assert [item.digest for item in proposed[:3]] == [searched.decode(g).digest for g in genomes]
    assert proposed[3].digest not in {item.digest for item in proposed[:3]}

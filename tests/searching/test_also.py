"""What is scored besides the objectives: on test documents only, and texts of the base once."""

import json

import pytest
import torch
from search_run import SMALL, events_of, evomerge, searched, write_search
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.errors import RunFolderError
from evomerge.evaluation.tasks.base_texts import Text, digest_of, from_lines, to_lines, write_texts
from evomerge.report.page import page
from evomerge.run.folder import RunFolder
from evomerge.run.journal import read
from evomerge.searching.texts import read_texts

TEXTS = "base_texts.jsonl"
ALSO = [{"texts": 12}, {"task": "zoo_maths", "metric": "exact_match"}]
EVALUATION = SMALL["evaluation"] | {"also": ALSO}


def test_texts_and_tasks_are_scored_on_test_documents_and_change_nothing_else(tmp_path):
    plain = searched(write_search(tmp_path, budget={"candidates": 8}), tmp_path / "plain")
    file = write_search(tmp_path, budget={"candidates": 8}, evaluation=EVALUATION)
    run = searched(file, tmp_path / "run")
    for candidate, same in zip(run.history.candidates, plain.history.candidates, strict=True):
        assert candidate.outcomes["search"] == same.outcomes["search"]
        assert candidate.outcomes.get("validation") == same.outcomes.get("validation")
    tested = [*run.history.bases, run.winner, *run.history.baselines]
    for candidate in tested:
        scores = candidate.scores("test")
        assert set(scores.documents) == {"zoo_l2_maths", "zoo_maths", "base_texts"}
        own = plain.history.bases if candidate.number < 0 else plain.history.candidates
        before = own[max(0, candidate.number)].scores("test")
        assert scores.of_task("zoo_l2_maths") == before.of_task("zoo_l2_maths")
    rows = [json.loads(line) for line in (run.folder / TEXTS).read_text().splitlines()]
    assert len(rows) == 9  # a twentieth of 8 x 24 documents
    assert by_hand(zoo.path("base"), rows) == pytest.approx(nats(run.history.bases[0]), abs=1e-5)
    out = run.export(tmp_path / "out")
    assert by_hand(out, rows) == pytest.approx(nats(run.winner), abs=1e-5)
    told = evomerge("results", run.folder).stdout
    assert "the base's own texts in nats a token" in told and "minus base" in told
    asked = json.loads(evomerge("results", run.folder, "--documents", "test").stdout)
    assert asked.keys() == {"zoo_l2_maths"}  # as in the command of lm_eval
    assert "What was lost?" in page(RunFolder(run.folder))


def nats(candidate):
    return candidate.scores("test").of_task("base_texts")["nll"]


def by_hand(folder, rows):
    """The nats a token of each text, one at a time, as a cross-entropy."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values = []
    for row in rows:
        ids = tokenizer.convert_tokens_to_ids(row["before"] + row["tokens"])
        labels = [-100] * len(row["before"]) + ids[len(row["before"]) :]
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        values.append(loss.item())
    return values


def test_after_a_kill_the_texts_stay_and_the_journal_goes_on_as_it_was(tmp_path):
    file = write_search(tmp_path, budget={"candidates": 6}, evaluation=EVALUATION)
    whole = searched(file, tmp_path / "whole").folder
    written, lines = (whole / TEXTS).read_bytes(), (whole / "journal.jsonl").read_bytes()
    events = read(whole / "journal.jsonl")
    place = next(i for i, event in enumerate(events) if event["event"] == "texts")
    # Killed after the file was written, after its line, and after one test score.
    for kept in (place, place + 1, place + 2):
        run = tmp_path / f"killed {kept}"
        run.mkdir()
        for name in (TEXTS, "manifest.json", "search.yaml", "best.yaml", "best.mergekit.yaml"):
            (run / name).write_bytes((whole / name).read_bytes())
        cut = b"\n".join(lines.split(b"\n")[:kept]) + b"\n"
        (run / "journal.jsonl").write_bytes(cut)
        evomerge("resume", run)
        assert (run / TEXTS).read_bytes() == written
        assert events_of(run) == events_of(whole)
    (run / TEXTS).write_bytes(written.replace(b"a", b"b"))
    cut = b"\n".join(lines.split(b"\n")[: place + 1]) + b"\n"
    (run / "journal.jsonl").write_bytes(cut)
    said = evomerge("resume", run, code=2).stderr
    assert f"{TEXTS} was changed after the base wrote it" in said


def test_a_base_with_a_chat_template_writes_what_is_asked_and_the_answer(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(zoo.path("base"))
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    tokenizer.chat_template = "{% for m in messages %}anna {{ m.content }} has {% endfor %}"
    texts = write_texts(model, tokenizer, 10, 3)
    assert texts and all(text.before[0] == "anna" for text in texts)
    assert all(text.before[-1] == "has" for text in texts)
    assert len({text.text for text in texts}) > 5
    odd = Text("\u2028", "a\u0085b\r", ("\u2028",), ("a", "\n"))  # ends of lines for `splitlines`
    assert from_lines(to_lines([*texts, odd])) == (*texts, odd)
    assert write_texts(model, tokenizer, 10, 3) == texts != write_texts(model, tokenizer, 10, 4)


def test_a_file_of_texts_from_a_stranger_that_fits_its_digest_is_no_traceback(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {"config": SMALL})
    for content in ('{"prompt": "a"}\n', "[1]\n", '{"prompt": "a", "text": "b", "before": 3}\n'):
        run.write(TEXTS, content)
        with pytest.raises(RunFolderError, match=f"{TEXTS} has no texts"):
            read_texts(run, digest_of(content))


def test_a_tokenizer_without_these_tokens_cuts_a_text_anew():
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    own = Text("anna", "has 9 items", ("anna",), ("has", "9", "items"))
    assert own.ids(tokenizer)[1] == tokenizer.encode("has 9 items", add_special_tokens=False)
    foreign = Text("anna", "has 9 items", ("anna",), ("ha", "s9", "items"))
    assert foreign.ids(tokenizer) == own.ids(tokenizer)

"""The texts by which ways of running are compared reach as far as the documents do."""

from dataclasses import replace
from types import SimpleNamespace

from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.probes import prompt_probes, within
from evomerge.evaluation.inference.reference import Request
from evomerge.evaluation.inference.rows import Continuation

COUNTED = tuple(range(100))


def request(*lengths, prompts=()):
    """Return a request with continuations of so many tokens, the last two of which are targets."""
    asked = SimpleNamespace(request_type="loglikelihood")
    texts = (Continuation(COUNTED[:length], COUNTED[length - 1 : length + 1]) for length in lengths)
    return Request(asked, tuple(texts), prompts=prompts)


def test_the_longest_prompt_is_tried_where_a_longer_text_has_a_shorter_one(llama):
    prompts = [Prompt(COUNTED[:10], (), 90), Prompt(COUNTED[:50], (), 5)]
    assert max(len(probe.tokens) for probe in prompt_probes(llama, prompts)) == 50


def test_documents_that_pass_a_change_are_cut_to_it():
    prompt = Prompt(COUNTED[:60], (), 8)
    (cut,) = within([request(30, 45, 20, prompts=(prompt,))], 40)
    assert [c.tokens for c in cut.continuations] == [
        COUNTED[6:30],
        COUNTED[6:45],
        COUNTED[6:20],
    ], "all begin with the same token"
    assert all(c.targets[0] == c.tokens[-1] for c in cut.continuations)
    assert cut.prompts == (replace(prompt, tokens=COUNTED[28:60]),)


def test_documents_below_a_change_stay_as_they_are():
    below = [request(30, 20, prompts=(Prompt(COUNTED[:30], (), 8),))]
    assert within(below, 40) == below == within(below, float("inf"))

"""What a running search prints in a pipe."""

from run_folders import FAILED, KEY, asked, scores, told

from evomerge.cli.live import SearchDisplay
from evomerge.cli.terminal import example_lines, say
from evomerge.run.history import History
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Example, Objective


def lines_of(events, capsys):
    """Return the lines that a display prints of these events."""
    task, metric = KEY.split("/")
    display = SearchDisplay(None, WeightedSum((Objective(task, metric),)))
    history = History()
    for event in events:
        history.apply(event)
        display.observe(history, event)
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_local_parents_have_the_names_of_their_folders(capsys):
    parents = ("/home/me/models/ja", "/home/me/models/maths", "/srv/other/maths", "org/model")
    events = [asked(number, label) for number, label in enumerate([*parents, "uniform"])]
    events += [told(number, scores(6 * number)) for number in range(4)] + [told(4, FAILED)]
    events += [*(asked(5, genome=[0.5]), told(5, scores(12)))]
    events += [told(1, scores(3)) | {"event": "score", "split": "test"}]
    assert lines_of(events, capsys) == [
        "candidate 0 (models/ja) 0.00; best 0.00 (candidate 0)",
        "candidate 1 (models/maths) 25.00; best 25.00 (candidate 1)",
        "candidate 2 (other/maths) 50.00; best 50.00 (candidate 2)",
        "candidate 3 (org/model) 75.00; best 75.00 (candidate 3)",
        "candidate 4 (uniform) failed in merge: no <finite> weights; best 75.00 (candidate 3)",
        "candidate 5 (optimizer) 50.00; best 75.00 (candidate 3)",
        "candidate 1 (models/maths) scored on test",
    ]


def test_a_document_without_values_of_its_own_ends_in_its_number():
    """That of a correlation, of which the score is made of all documents, ended in `: `."""
    assert example_lines(Example("sts", 1, "a", "0.9", "0.9", "1", {}))[0] == "sts, document 1"


def test_a_message_with_text_of_a_file_is_one_line(capsys):
    say("a parent named x\n\rwarning: y\x1b[2J\x85z")
    assert capsys.readouterr().err == "a parent named x warning: y\ufffd[2J\ufffdz\n"

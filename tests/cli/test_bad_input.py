"""A mistake of the user gives one sentence and exit code 2, before any model is run."""

import copy
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from search_run import SMALL, environment, evomerge, write_search
from tiny import edit_config, make, rewrite

import evomerge as api
from evomerge import zoo
from evomerge.__main__ import run
from evomerge.config.schema import load
from evomerge.errors import EvomergeError
from evomerge.models.references import open_parent
from evomerge.run.folder import RunFolder
from evomerge.setup.runs import prepare

DOCUMENTS = {"search": {"documents": 5}, "validation": {"documents": 5}, "test": {"documents": 5}}


def evaluation(**changes):
    return {"evaluation": {"include": ["zoo:tasks"], **DOCUMENTS, **changes}}


def objective(**changes):
    return {"objectives": [SMALL["objectives"][0] | changes]}


def space(**changes):
    return {"space": SMALL["space"] | changes}


BAD = {
    "unknown parent": ({"parents": ["zoo:mathz"]}, ["zoo:mathz", "Did you mean 'zoo:maths'"]),
    "missing folder": ({"parents": ["./nowhere", "zoo:maths"]}, ["./nowhere", "folder"]),
    "unknown method": (space(method="tie"), ["'tie'", "Did you mean 'ties'"]),
    "no method": (space(method=[]), ["space.method"]),
    "an empty parent": ({"parents": ["", "zoo:maths"]}, ["parents"]),
    "a population that no memory holds": (
        {"optimizer": {"name": "cma", "population": 10**9}},
        ["optimizer.population", "10000"],
    ),
    "weights that overflow": (objective(weight=1e308), ["weight"]),
    "an objective twice": (
        {"objectives": SMALL["objectives"] * 2},
        ["objectives", "exact_match", "twice"],
    ),
    "a time too short to search": ({"budget": {"hours": 1e-300}}, ["budget.hours"]),
    "unknown knob": (space(knobs={"wieght": [0, 1]}), ["wieght", "Did you mean 'weight'"]),
    "range too wide": (space(knobs={"density": [0.0, 2.0]}), ["density", "2"]),
    "no base": ({"base": None} | space(method="ties"), ["ties", "base"]),
    "slerp of three": (
        {"parents": ["zoo:language", "zoo:maths", "zoo:facts"]} | space(method="slerp", knobs={}),
        ["slerp", "2"],
    ),
    "too many groups": (space(groups=7), ["groups", "7", "6"]),
    "unknown component": (space(components=["atention"]), ["atention", "Did you mean 'attention'"]),
    "nothing to search": (space(knobs={"weight": 1.0}), ["nothing to search"]),
    "unknown optimizer": ({"optimizer": {"name": "cmaes"}}, ["cmaes", "Did you mean 'cma'"]),
    "unknown task": (
        objective(task="zoo_math"),
        ["'zoo_math'", "evaluation.include", "Did you mean 'zoo_maths'"],
    ),
    "unknown metric": (objective(metric="exact_mach"), ["exact_mach", "mean 'exact_match'"]),
    "unknown include": (
        evaluation(include=["./none"]),
        ["evaluation.include", "none", "name a folder with task YAML"],
    ),
    "too many documents": (evaluation(search={"documents": 99999}), ["99999", "zoo_l2_maths"]),
    "two splits take all": (
        evaluation(search={"documents": "all"}, test={"documents": "all"}),
        ["all", "share"],
    ),
    "no such device": (evaluation(device="gpu"), ["evaluation.device", "gpu"]),
    "a device that torch cannot use": (
        evaluation(device="cuda:77"),
        [
            "evaluation.device",
            "'cuda:77'",
            "use auto" if torch.cuda.is_available() else "auto or cpu",
        ],
    ),
    "a device and a device map": (
        evaluation(device="cpu", device_map="auto"),
        ["evaluation", "device_map", "remove one"],
    ),
    "no such device map": (
        evaluation(device_map="balance"),
        ["evaluation.device_map", "Did you mean 'balanced'"],
    ),
    "an engine of several processes": (
        evaluation(tensor_parallel=2),
        ["tensor_parallel", "backend: vllm", "device_map: auto"],
    ),
    "an engine on the second device": (
        evaluation(backend="vllm", device="cuda:1"),
        ["'cuda:1'", "CUDA_VISIBLE_DEVICES", "to 1"],
    ),
    "memory of one device": (evaluation(max_memory={0: "1GB"}), ["max_memory", "device_map"]),
    "no amount of memory": (
        evaluation(device_map="auto", max_memory={0: "much"}),
        ["evaluation.max_memory.0", "'much'", "5GB"],
    ),
    "memory without a unit": (
        evaluation(device_map="auto", max_memory={0: 20}),
        ["evaluation.max_memory[0]", "20", "must be text"],
    ),
    "memory of no device's number": (
        evaluation(device_map="auto", max_memory={"gpu": "20GB"}),
        ["evaluation.max_memory.gpu", "must be a whole number"],
    ),
    "no such attention": (
        evaluation(attention="spda"),
        ["evaluation.attention", "Did you mean 'sdpa'"],
    ),
    "attention that is not installed": (
        evaluation(attention="flash_attention_2"),
        ["evaluation.attention", "'flash_attention_2'", "sdpa or eager"],
    ),
    "memory of an accelerator that is not there": (
        evaluation(device_map="auto", max_memory={99: "20GB"}),
        ["evaluation.max_memory", "99", "remove `max_memory`"],
    ),
    "vllm is not there": (evaluation(backend="vllm"), ["vllm", "pip install 'evomerge[vllm]'"]),
    "no chat template": (evaluation(chat_template=True), ["chat_template", "'zoo:base'", "false"]),
    "nothing to leave out in a race": (
        evaluation(racing={"enabled": True}),
        ["evaluation.racing.minimum", "50", "5 search documents"],
    ),
    "pareto": ({"mode": "pareto"}, ["mode", "weighted"]),
    "wrong kind of key": (space(kind="dataflow", method="ties"), ["`space` has", "dataflow"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_sentence(tmp_path, name):
    change, words = BAD[name]
    file = write_search(tmp_path, **copy.deepcopy(change))
    with pytest.raises(EvomergeError) as caught:
        prepare(load(file), tmp_path)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for word in words:
        assert word in message


def test_parents_with_different_shapes(tmp_path):
    make(tmp_path / "a", hidden_size=16)
    make(tmp_path / "b", hidden_size=32)
    file = write_search(tmp_path, parents=["./a", "./b"], base=None, **space(method="linear"))
    with pytest.raises(EvomergeError, match=r"shape|differ") as caught:
        prepare(load(file), tmp_path)
    assert "16" in str(caught.value)
    assert "32" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "frobnicator"}, "does not know its model_type 'frobnicator'"),
        ({"architectures": ["LlamaModel"]}, "no causal language model"),
    ],
)
@pytest.mark.parametrize("kind", ["parameters", "dataflow"])
def test_a_host_that_transformers_cannot_run(tmp_path, kind, change, words):
    edit_config(make(tmp_path / "a"), **change)
    searched = {"kind": kind} if kind == "dataflow" else SMALL["space"] | {"method": "linear"}
    file = write_search(tmp_path, parents=["./a"], base=None, space=searched)
    with pytest.raises(EvomergeError, match=words):
        prepare(load(file), tmp_path)


def test_parents_of_different_depths_are_not_cut_off(tmp_path):
    make(tmp_path / "a", num_hidden_layers=2)
    make(tmp_path / "b", num_hidden_layers=3)
    for parents in (["./a", "./b"], ["./b", "./a"]):
        file = write_search(tmp_path, parents=parents, base=None, **space(method="linear"))
        with pytest.raises(EvomergeError, match=r"b' has 3 layers|a' has 2 layers") as caught:
            prepare(load(file), tmp_path)
        assert "'dataflow'" in str(caught.value)


def test_more_few_shot_examples_than_there_are_documents(tmp_path):
    rows = [{"q": str(i), "a": str(i % 3)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "output_type": "generate_until",
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(task))
    own = {"objectives": [{"task": "own", "metric": "exact_match"}]}
    for count, message in ((39, None), (40, "is to show 40 few-shot examples, but has 40")):
        settings = {"include": [str(tmp_path)], "fewshot": count, **DOCUMENTS}
        file = write_search(tmp_path, **own, evaluation=settings)
        if message is None:
            prepare(load(file), tmp_path)
        else:
            with pytest.raises(EvomergeError, match=message):
                prepare(load(file), tmp_path)


def test_a_parent_with_nan_ends_the_search_with_a_sentence(tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(Path(zoo.__file__).parent / "models" / "maths", folder)
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda tensors: tensors[name].view(-1)[:2].fill_(float("nan")))
    file = write_search(tmp_path, parents=["zoo:language", str(folder)])
    done = evomerge("search", file, "--run", tmp_path / "run", code=2)
    assert f"{name}: 2 of " in done.stderr and "remove the parent" in done.stderr


def test_a_bound_that_a_run_has_passed_is_refused(tmp_path):
    run = tmp_path / "run"
    evomerge("search", write_search(tmp_path, budget={"candidates": 5}), "--run", run)
    before = (run / "journal.jsonl").read_bytes()
    assert "has 5 candidates," in evomerge("resume", run, "--candidates", 4, code=2).stderr
    evomerge("resume", run, "--hours", 0, code=2)
    assert (run / "journal.jsonl").read_bytes() == before
    evomerge("resume", run, "--candidates", 5)


def test_parents_with_different_vocabularies(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", vocab_size=80)
    file = write_search(tmp_path, parents=["./a", "./b"], base=None, **space(method="linear"))
    with pytest.raises(EvomergeError, match="tokenizer: union"):
        prepare(load(file), tmp_path)


def test_a_mergekit_file_with_different_vocabularies(tmp_path):
    """The message has the key of the file at hand."""
    parents = [str(make(tmp_path / "a")), str(make(tmp_path / "b", vocab_size=80))]
    models = [{"model": parent, "parameters": {"weight": 0.5}} for parent in parents]
    data = {"merge_method": "linear", "dtype": "float32", "models": models, "mine": 1}
    (tmp_path / "merge.yml").write_text(json.dumps(data))
    with pytest.raises(EvomergeError, match="tokenizer_source: union"):
        api.merge(tmp_path / "merge.yml", tmp_path / "out")
    with pytest.raises(EvomergeError, match=r"`--strict` allows no warnings.*mine"):
        api.merge(tmp_path / "merge.yml", tmp_path / "out", truncate=True, strict=True)
    with pytest.warns(UserWarning, match=r"mine|cut to 48"):
        api.merge(tmp_path / "merge.yml", tmp_path / "out", truncate=True)
    smaller = json.loads((tmp_path / "a" / "config.json").read_text())["vocab_size"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == smaller


def test_a_mistake_gives_exit_code_2_no_traceback_and_no_run(tmp_path):
    file = write_search(tmp_path, **space(method="tie"))
    done = evomerge("search", file, "--run", tmp_path / "run", code=2)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    done = evomerge("validate", file, code=2)
    assert done.stderr.startswith("evomerge: ")


def test_a_file_in_the_place_of_another_thing(tmp_path):
    file = write_search(tmp_path)
    assert "is not a run folder" in evomerge("status", file, code=2).stderr
    with pytest.raises(EvomergeError, match=r"is a folder; give a file in it\.$"):
        load(tmp_path)
    with pytest.raises(EvomergeError, match=r"has no journal.*; give the folder that was given"):
        RunFolder(tmp_path)
    said = evomerge("merge", file, "--out", tmp_path / "model", code=2).stderr
    assert "is a search file; run it with `evomerge search" in said
    moe = tmp_path / "moe.yml"
    moe.write_text("base_model: zoo:base\nexperts: []\n")
    said = evomerge("merge", moe, "--out", tmp_path / "model", code=2).stderr
    assert "is a file of mergekit-moe; `mergekit-moe " in said
    said = evomerge("merge", tmp_path / "no.yaml", "--out", tmp_path / "model", code=2).stderr
    assert "no.yaml does not exist; give the path of a file" in said
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").touch()
    with pytest.raises(EvomergeError, match=r"is the folder of a run; .*`evomerge export ./run -"):
        open_parent("./run", tmp_path)
    export, merge = "export DIR", "merge FILE"
    for name, fix in {"run:x": export, "stage:1": export, "merge:x": merge}.items():
        with pytest.raises(EvomergeError, match=f"Parent '{name}' is no model; .*`evomerge {fix} "):
            open_parent(name, tmp_path)
    many = tmp_path / "many.yml"
    many.write_text("name: a\nmodels: []\n---\nmodels: [{model: a}]\n")
    said = evomerge("merge", many, "--out", tmp_path / "model", code=2).stderr
    assert "several documents (`---`); put each into a file of its own" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"merge_method": "linear", "models": []}, "is a mergekit file, .*`evomerge merge .*--out"),
        ({"base_model": "a", "experts": []}, "of mergekit-moe, .*`mergekit-moe "),
        ({"genome": {"models": []}, "tasks": []}, "of mergekit-evolve, .*from-other-tools.md"),
        ({"pop_size": 4, "n_iter": 2, "tasks": []}, "of mergenetic, .*from-other-tools.md"),
        ({"host": "zoo:base", "layers": {}}, "is a recipe, .*`evomerge merge "),
    ],
)
@pytest.mark.parametrize("command", [["validate"], ["search", "--run", "run"]])
def test_a_file_of_another_tool_is_named_with_its_command(tmp_path, content, said, command):
    (tmp_path / "file.yml").write_text(json.dumps(content))
    with pytest.raises(EvomergeError, match=said):
        run([*command, str(tmp_path / "file.yml")])


def test_run_folders_that_exist_or_are_missing(tmp_path):
    file = write_search(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    assert "not a run" in evomerge("search", file, "--run", tmp_path / "full", code=2).stderr
    for name in ("resume", "status", "results"):
        assert "does not exist" in evomerge(name, tmp_path / "nowhere", code=2).stderr


def test_validate_prints_the_dimension_and_the_documents(tmp_path):
    values = json.loads(evomerge("validate", write_search(tmp_path), "--json").stdout)
    assert values["valid"] is True
    assert values["dimension"] == 8
    assert len(values["genes"]) == 8
    assert values["genes"][0] == {
        "name": "embeddings.zoo:language.weight",
        "kind": "real",
        "low": 0.0,
        "high": 2.0,
        "start": 1.0,
    }
    assert values["documents"] == {"search": 24, "validation": 16, "test": 32}


def test_validate_names_knobs_that_the_search_file_does_not(tmp_path):
    file = write_search(tmp_path, **space(method="dare_ties", knobs={"weight": [0.0, 1.5]}))
    rows = [line.split("\t") for line in evomerge("validate", file).stdout.splitlines()]
    named = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert named["weight"] == ["8", "0 to 1.5", "0.75", "space.knobs.weight"]
    assert named["density"][3] == "the method's range; space.knobs.density fixes it"


def test_a_budget_for_the_baselines_alone_is_warned_of(tmp_path):
    said = evomerge("validate", write_search(tmp_path, budget={"candidates": 3})).stderr
    assert "nothing is searched; set it to 4 or more" in said


PRESETS = ["parameters", "multi", "dataflow", "lorahub", "gradient"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(tmp_path, preset):
    evomerge("init", tmp_path / "s.yaml", "--preset", preset)
    prepare(load(tmp_path / "s.yaml"), tmp_path)
    assert "exists" in evomerge("init", tmp_path / "s.yaml", code=2).stderr


HEAVY = ("torch", "lm_eval", "nevergrad", "transformers")
LIGHT = [
    ["--help"],
    ["--version"],
    ["schema"],
    ["list", "methods"],
    ["list", "optimizers"],
    ["list", "parents"],
]


def imported(commands, names):
    """Which of these modules commands import, and which of the commands did: name -> command."""
    code = (
        "import json, sys; from evomerge.__main__ import run\nfound = {}\n"
        f"for arguments in {commands!r}:\n"
        "    assert run(arguments) == 0\n"
        f"    found |= {{name: arguments for name in {names!r}\n"
        "              if name in sys.modules and name not in found}\n"
        "print(json.dumps(found), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_light_commands_import_nothing_heavy():
    assert not imported(LIGHT, HEAVY)


def test_an_ordinary_merge_of_files_needs_no_torch(tmp_path):
    models = [{"model": f"zoo:{name}"} for name in ("maths", "language")]
    merge = {"merge_method": "dare_ties", "base_model": "zoo:base", "models": models}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(merge))
    arguments = ["merge", str(tmp_path / "merge.yaml"), "--out", str(tmp_path / "out")]
    assert not imported([arguments], (*HEAVY, "matplotlib", "huggingface_hub.hf_api"))
    assert (tmp_path / "out" / "README.md").is_file()


def test_parents_are_compared_without_torch():
    arguments = ["compare", "zoo:language", "zoo:maths", "--base", "zoo:base"]
    assert not imported([arguments], (*HEAVY, "matplotlib", "huggingface_hub.hf_api"))


def test_the_version_is_that_of_the_installed_package(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"evomerge {version('evomerge')}\n"

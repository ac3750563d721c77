"""What is known of the code of lm-eval: libraries that run no text, and what is cleared."""

from collections.abc import Mapping

LIBRARIES: frozenset[str] = frozenset(
    {
        *("numpy", "pandas", "scipy", "sklearn", "torch"),  # numbers; their `eval` is looked for
        *("bert_score", "evaluate", "fuzzywuzzy", "radgraph", "rouge", "rouge_score", "sacrebleu"),
        *("absl", "emoji", "fugashi", "immutabledict", "iso639", "jieba", "langdetect", "neologdn"),
        *("nltk", "pymorphy3", "regex", "spacy", "wonderwords", "word2number"),  # words
        *("datasets", "huggingface_hub", "jsonschema", "lark", "PIL", "transformers"),  # data
        *("openai", "requests"),  # of the network
        *("packaging", "psutil", "pytablewriter", "tqdm", "typing_extensions"),
    }
)
"""Packages that tasks import and that never run a text as code, whatever stands in it.

Left out on purpose are sympy, math_verify (they evaluate formulas), statsmodels (patsy evaluates
formulas as Python), kstar_planner, pddl and tarski (they start planners), tinyBenchmarks (it loads
a pickle from the network), yaml, jinja2, dill and sqlitedict (pickles).
"""

_YAML = "it reads the YAML of tasks, which was looked at before"
_FUNCTIONS = "it imports the functions that the YAML of a task names"
_OWN = "it asks for attributes by names in the code of lm-eval or in YAML"

CLEARED: Mapping[str, Mapping[str, str]] = {
    "api/metrics.py": {"imports multiprocessing": "it repeats draws of numbers in processes"},
    "api/model.py": {
        "imports sqlitedict": "it keeps answers in a file that evomerge never asks for",
        "uses getattr": _OWN,
    },
    "api/registry.py": {
        "imports importlib": "it imports modules of lm-eval and of installed packages",
        "uses getattr": _OWN,
        "uses import_module": "it imports modules of lm-eval and of installed packages",
    },
    "api/task.py": {"uses getattr": _OWN},
    "caching/cache.py": {"imports dill": "it keeps requests in files that evomerge never asks for"},
    "config/evaluate_config.py": {
        "imports yaml": "it reads the options of lm-eval's command line",
        "uses getattr": _OWN,
    },
    "config/task.py": {"uses getattr": _OWN},
    "prompts/__init__.py": {
        "imports promptsource": "`use_prompt` of a stranger needs consent",
        "imports yaml": "`use_prompt` of a stranger needs consent",
        "uses full_load": "`use_prompt` of a stranger needs consent",
    },
    "tasks/_yaml_loader.py": {
        "imports importlib.util": _FUNCTIONS,
        "imports yaml": _YAML,
        "uses __import__": _FUNCTIONS,
        "uses exec_module": _FUNCTIONS,
        "uses getattr": _FUNCTIONS,
    },
    "tasks/super_glue/cb/t5_utils.py": {"uses getattr": "it takes a metric of sklearn by its name"},
    "tasks/xwinograd/utils.py": {"imports yaml": "it writes YAML, and only as a program"},
    "utils.py": {
        "imports importlib.util": _FUNCTIONS,
        "imports jinja2": "evomerge renders templates in a sandbox",
        "imports yaml": _YAML,
        "uses exec_module": _FUNCTIONS,
        "uses getattr": _OWN,
    },
}
"""File of lm-eval -> what it uses that could run text -> why it runs no document and no answer.

What is not listed here counts, so a file that uses more in another version of lm-eval is looked at
anew.
"""

"""A setting that ends a text by the clock is refused, since no score with it can be repeated."""

import json
import shutil

import pytest
from search_run import SMALL

from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.loading import check_task
from evomerge.setup.runs import prepare

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_host_that_generates_for_a_limited_time_is_refused(tmp_path, file):
    host = tmp_path / "host"
    shutil.copytree(zoo.path("base"), host)
    if file == "config.json":  # as in old models, which have no other file
        (host / "generation_config.json").unlink(missing_ok=True)
    settings = json.loads((host / file).read_text()) if (host / file).is_file() else {}
    (host / file).write_text(json.dumps({**settings, "max_time": 5.0}))
    with pytest.raises(ConfigError) as caught:
        prepare(parse({**SMALL, "base": str(host)}, "search.yaml"), tmp_path)
    assert f"{str(host)!r} sets 'max_time'" in str(caught.value)
    assert "depend on the speed of the machine; remove it there" in str(caught.value)


def test_a_task_that_generates_for_a_limited_time_is_refused():
    harness = Harness(["zoo_maths"], [zoo.tasks_path()])
    task = harness._tasks["zoo_maths"]
    task.set_config(key="generation_kwargs", value={"max_time": 5.0}, update=True)
    with pytest.raises(ConfigError, match="'max_time', so its scores would depend on the speed"):
        check_task(task, "objectives", allow_code=False)

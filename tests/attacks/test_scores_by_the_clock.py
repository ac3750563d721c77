"""A setting that ends a text by the clock is refused, since no score with it can be repeated."""

import pytest

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.loading import check_task

pytestmark = pytest.mark.thorough


def test_a_task_that_generates_for_a_limited_time_is_refused():
    harness = Harness(["zoo_maths"], [zoo.tasks_path()])
    task = harness._tasks["zoo_maths"]
    task.set_config(key="generation_kwargs", value={"max_time": 5.0}, update=True)
    with pytest.raises(ConfigError, match="'max_time', so its scores would depend on the speed"):
        check_task(task, "objectives", allow_code=False)

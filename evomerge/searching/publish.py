"""What a run folder shows of a search that is not over: the best recipe so far, or the front."""

from collections.abc import Sequence

from evomerge.errors import RecipeError
from evomerge.mergekit import express
from evomerge.problem.parents import pinned
from evomerge.problem.parents_as_themselves import recipe_to_write
from evomerge.problem.problem import Problem
from evomerge.recipe import Recipe
from evomerge.run.folder import MERGEKIT, NOT_IN_MERGEKIT, RunFolder
from evomerge.run.history import Candidate


def publish(problem: Problem, run: RunFolder, front: Sequence[Candidate], best: Candidate) -> None:
    """Write the best candidate's recipe to `best.yaml` and, for mergekit, `best.mergekit.yaml`.

    If mergekit cannot express the recipe, `best.not-in-mergekit.txt` says why instead. In a search
    for a front, the recipes of its members are `front/NUMBER.yaml`; others are removed there.
    """

    def written(candidate: Candidate) -> tuple[Recipe, Recipe]:
        recipe = recipe_to_write(problem, candidate)
        return recipe, pinned(recipe, problem.checkpoints)

    recipe, with_pins = written(best)
    run.write("best.yaml", with_pins.to_yaml())
    try:
        name, other, text = MERGEKIT, NOT_IN_MERGEKIT, express(recipe, problem.checkpoints)
    except RecipeError as error:
        name, other, text = NOT_IN_MERGEKIT, MERGEKIT, f"{error}\n"
    (run.path / other).unlink(missing_ok=True)
    run.write(name, text)
    if not problem.ranking.has_front:
        return
    folder = run.path / "front"
    folder.mkdir(exist_ok=True)
    members = {f"{item.number}.yaml": item for item in front}
    there = {path.name for path in folder.glob("*.yaml")}
    for name in members.keys() - there:
        run.write(f"front/{name}", written(members[name])[1].to_yaml())
    for name in there - members.keys():
        (folder / name).unlink()

"""`evomerge.evaluate` of recipes: built in memory, with the scores of the search."""

from dataclasses import replace

import pytest
from search_run import searched, write_search

import evomerge
from evomerge.errors import InputError


@pytest.fixture(scope="module")
def searched_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    return searched(write_search(folder, budget={"candidates": 6}), folder / "run")


def test_recipes_are_scored_in_memory_as_the_search_scored_them(searched_run):
    run, file = searched_run, searched_run.folder / "search.yaml"
    merges = [one for one in run.history.candidates if one.label not in run.config.parents]
    scored = [one for one in merges if one.scores("search")]
    recipes = [run.recipe(one.number) for one in scored]
    every = evomerge.evaluate(recipes, file, "search")
    keys = {key for one in every for key in one}
    assert [{key: one[key].value for key in keys} for one in every] == [
        {key: one.scores("search").aggregates[key] for key in keys} for one in scored
    ]
    assert evomerge.evaluate(recipes[-1], file, "search") == every[-1]


@pytest.mark.parametrize("model", [3, [], [3], ["zoo:maths"]])
def test_what_is_no_recipe_is_refused_by_name(model):
    with pytest.raises(InputError, match=r"^model has .*give one model"):
        evomerge.evaluate(model, "missing.yaml")


def test_a_parent_itself_is_given_by_its_name(searched_run):
    recipe, file = searched_run.recipe(0), searched_run.folder / "search.yaml"
    with pytest.raises(InputError, match="has the host 'zoo:language' and the dtype float32, the"):
        evomerge.evaluate(recipe, file)


def test_a_recipe_of_another_parent_is_refused_by_name(searched_run):
    recipe = replace(searched_run.recipe(), host="zoo:other")
    with pytest.raises(InputError, match="has the parent 'zoo:other', which the search does not"):
        evomerge.evaluate(recipe, searched_run.folder / "search.yaml")

"""What is scored for a candidate: its recipe, on which documents, compared with whom."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.run.history import OPTIMIZER, Candidate, History
from evomerge.scores import Scores, Split
from evomerge.space.genes import Space


@dataclass(frozen=True)
class Saving:
    """What is to be known of earlier candidates where some are scored on fewer documents.

    Attributes:
        recent: how many of the latest.
        whole: only those that were scored on all documents.
    """

    recent: int
    whole: bool


@dataclass(frozen=True)
class Jobs:
    """Makes the jobs of one search.

    Attributes:
        space: what is searched.
        history: the candidates so far.
        saving: what a job tells of earlier candidates; None where all documents are scored.
        rotating: every generation has its own subset of the search documents.
    """

    space: Space
    history: History
    saving: Saving | None
    rotating: bool

    def first(self, candidate: Candidate) -> Job:
        """Return the job that scores a new candidate, on as many documents as it is worth."""
        return Job(
            candidate.number,
            recipe_of(candidate, self.space),
            subset=self.subset(candidate),
            against=self.elite(candidate),
            earlier=self.earlier(candidate),
        )

    def whole(self, candidate: Candidate) -> Job:
        """Return the job that scores a candidate on all search documents of its generation."""
        recipe = recipe_of(candidate, self.space)
        return Job(candidate.number, recipe, subset=self.subset(candidate))

    def again(self, candidate: Candidate, generation: int) -> Job:
        """Return the job that scores a candidate on the documents of another generation."""
        return Job(candidate.number, recipe_of(candidate, self.space), subset=generation)

    def unseen(self, candidate: Candidate, split: Split) -> Job:
        """Return the job that scores a candidate on the validation or test documents."""
        return Job(candidate.number, recipe_of(candidate, self.space), split)

    def subset(self, candidate: Candidate) -> int | None:
        """Return the rotating subset of a candidate's generation, None where all have the same."""
        return candidate.generation if self.rotating else None

    def elite(self, candidate: Candidate) -> Scores | None:
        """Return the scores of the leader that a candidate is compared with."""
        if candidate.against is None:
            return None
        elite = self.history.candidates[candidate.against]
        if self.rotating and candidate.generation != elite.generation:
            return elite.subsets.get(candidate.generation)
        return elite.scores("search")

    def earlier(self, candidate: Candidate) -> tuple[Scores, ...]:
        """Return the scores, known when a candidate was asked, that its own may build on."""
        if self.saving is None or candidate.against is None:
            return ()
        told = [item for item in self.history.told[: candidate.known] if isinstance(item, Scores)]
        wanted = [item for item in told if not (self.saving.whole and item.expected)]
        return tuple(wanted[-self.saving.recent :])

    def twin(self, candidate: Candidate) -> Candidate | None:
        """Return a scored candidate of the same recipe and the same documents."""
        for other in self.history.candidates[: candidate.number]:
            if other.status == "scored" and self.are_twins(candidate, other):
                return other
        return None

    def are_twins(self, candidate: Candidate, other: Candidate) -> bool:
        """Whether the scores of `other` are those that `candidate` would get."""
        same = not self.rotating or other.generation == candidate.generation
        return other.digest == candidate.digest and same


def recipe_of(candidate: Candidate, space: Space) -> Recipe:
    """Return a candidate's recipe.

    Raises:
        SearchError: it is not the recipe that was journaled.
    """
    if candidate.origin == OPTIMIZER:
        recipe = space.decode(candidate.genome or ())
    else:
        recipe = space.landmarks()[candidate.origin]
    if recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version named in the run's search.yaml."
        )
    return recipe

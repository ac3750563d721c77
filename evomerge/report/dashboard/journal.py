"""Runs as a journal of Optuna, which `optuna.storages.JournalStorage` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NoReturn

from optuna.storages.journal import BaseJournalBackend

from evomerge.errors import InputError
from evomerge.report.dashboard.study import Study
from evomerge.report.texts import storable

# The operations of Optuna's journal, by their codes in its files.
_CREATE_STUDY, _SET_STUDY_USER_ATTR, _SET_STUDY_SYSTEM_ATTR = 0, 2, 3
_CREATE_TRIAL, _SET_TRIAL_STATE_VALUES, _SET_TRIAL_USER_ATTR = 4, 6, 8

READ_ONLY = "The dashboard shows runs and cannot change them; `evomerge resume` continues a run."


class RunsBackend(BaseJournalBackend):
    """The journal that Optuna would have written if it had made the runs; it cannot be written.

    It grows while the runs do: an operation keeps its number. Optuna does not let a trial change
    that has finished, but a candidate does: an estimate is completed, the finalists get further
    scores, one of them becomes the winner. After that, `is_outdated` is true, and only a new
    backend over the same studies shows all.

    Args:
        studies: the runs.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        self._studies = studies
        self._trial_ids = count()
        self._trials: list[dict[int, int]] = [{} for _ in studies]
        self._finished: list[set[int]] = [set() for _ in studies]
        self._winners: list[int | None] = [None for _ in studies]
        self._logs: list[dict[str, Any]] = []
        self.is_outdated = False
        for index, study in enumerate(studies):
            self._log(_CREATE_STUDY, study_name=study.name, directions=study.directions)
            names = {"study:metric_names": study.value_names}
            self._log(_SET_STUDY_SYSTEM_ATTR, study_id=index, system_attr=names)
        for index, study in enumerate(studies):
            self._add(index, set(range(len(study.history.candidates))))

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from a number on, those of the newest events of the runs included.

        Raises:
            RunFolderError: the journal of a run is missing or damaged.
        """
        self.update()
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> NoReturn:
        """Refuse to write.

        Raises:
            InputError: always.
        """
        raise InputError(READ_ONLY)

    def update(self) -> None:
        """Read the new events of all runs.

        Raises:
            RunFolderError: the journal of a run is missing or damaged.
        """
        for index, study in enumerate(self._studies):
            if changed := study.update():
                self._add(index, changed)

    def _add(self, index: int, changed: set[int]) -> None:
        """Write the operations for the candidates of a study that have changed."""
        study, ids, finished = self._studies[index], self._trials[index], self._finished[index]
        self.is_outdated |= bool(changed & finished)
        new, told = sorted(changed - ids.keys()), _finished(study, changed & ids.keys() - finished)
        for number, fields in zip(new, study.trials(new), strict=True):
            ids[number] = next(self._trial_ids)
            self._log(_CREATE_TRIAL, study_id=index, **fields)
        for number, fields in zip(told, study.ends(told), strict=True):
            for name, value in study.attributes(number).items():
                self._log(_SET_TRIAL_USER_ATTR, trial_id=ids[number], user_attr={name: value})
            self._log(_SET_TRIAL_STATE_VALUES, trial_id=ids[number], **fields)
        finished.update(told, _finished(study, new))
        if study.winner != self._winners[index]:
            self._winners[index] = study.winner
            self._log(_SET_STUDY_USER_ATTR, study_id=index, user_attr={"winner": study.winner})

    def _log(self, code: int, **fields: Any) -> None:
        self._logs.append({"op_code": code, "worker_id": "evomerge", **storable(fields)})


def _finished(study: Study, numbers: Iterable[int]) -> list[int]:
    """Return those of the candidates that have an outcome on the search documents, in order."""
    return [number for number in sorted(numbers) if study.is_finished(number)]

"""Reward models in a search: opened, checked, and given to the objectives that they score for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.config.schema import SearchConfig
from evomerge.errors import CheckpointError, ConfigError, one_line
from evomerge.models.causal import check_known, check_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import classified, labels_of
from evomerge.models.references import open_parent
from evomerge.setup.place import place
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.inference.rewarding import RewardModel
    from evomerge.evaluation.tasks.rewards import RewardObjective

MakeReward: TypeAlias = "Callable[[str, str | None], RewardObjective]"
"""Makes an objective of a file of prompts and a name; without, it is named by the file."""


def reward_models(config: SearchConfig) -> dict[str, Checkpoint]:
    """Return the reward models of a search by their references. Their weights are not read.

    Raises:
        ConfigError: one is missing or damaged, or gives a text no single number.
    """
    names = dict.fromkeys(str(item.reward) for item in config.rewards.values())
    return {name: _opened(name) for name in names}


def _opened(name: str) -> Checkpoint:
    try:
        found = open_parent(name, Path.cwd())
        check_known(found)
        check_tokenizer(found)
        labels = labels_of(found)
    except CheckpointError as error:
        raise ConfigError(f"objectives: the reward model cannot be used: {error}") from error
    kind = (found.config.get("architectures") or ["no class"])[0]
    if classified(found) != "texts":
        raise ConfigError(
            f"objectives: the reward model {name!r} has no head that scores texts (config.json: "
            f"architectures {kind}); give a model whose class ends in ForSequenceClassification."
        )
    if len(labels) != 1:
        raise ConfigError(
            f"objectives: the reward model {name!r} has {len(labels)} outputs "
            f"({', '.join(labels[:8])}), and a reward is one number; give a model with one output, "
            "or write an objective function."
        )
    return found


def load_rewards(config: SearchConfig, allowed: Permissions) -> dict[str, MakeReward]:
    """Return what makes the objective of each reward. Reward models are loaded when they score.

    Raises:
        ConfigError: as `reward_models`.
    """
    if not config.rewards:
        return {}
    from evomerge.evaluation.inference.rewarding import RewardModel
    from evomerge.evaluation.tasks.files import read_rows
    from evomerge.evaluation.tasks.rewards import RewardObjective
    from evomerge.merging.backend import load, tokenizer_of

    opened = reward_models(config)

    def model(checkpoint: Checkpoint) -> RewardModel:
        return RewardModel(
            checkpoint,
            lambda: load(checkpoint, place(config), config.dtype, causal=False),
            lambda: tokenizer_of(checkpoint),
            config.evaluation.batch_size,
        )

    models = {name: model(checkpoint) for name, checkpoint in opened.items()}

    def maker(source: str) -> MakeReward:
        item = config.rewards[source]
        options = item.generation | config.evaluation.generation.changes

        def make(file: str, name: str | None) -> RewardObjective:
            found = read_rows("prompts", file)
            return RewardObjective(
                name or found.name,
                found.rows,
                found.digest,
                models[str(item.reward)],
                options,
                is_chat=config.evaluation.chat_template,
            )

        return make

    return {source: maker(source) for source in config.rewards}


def rewards_of(evaluator: Evaluator) -> Iterator[RewardObjective]:
    """Yield the objectives of reward models, for each split that has prompts of its own."""
    from evomerge.evaluation.tasks.rewards import RewardObjective

    for of_split in (evaluator.default, *evaluator.by_split.values()):
        for item in of_split.functions.values():
            if isinstance(item, RewardObjective):
                yield item


def check_rewards(evaluator: Evaluator, tokenizer: Any, reference: str) -> None:
    """Check that reward models can be built, and that all prompts can be written and read.

    Args:
        tokenizer: that of the merges, whose chat template writes prompts.
        reference: the parent that it comes from.

    Raises:
        ConfigError: a reward model lacks weights, a chat template refuses messages, or a prompt is
            so long that a reward model would read nothing of an answer.
    """
    from evomerge.merging.architecture.buildable import check_buildable
    from evomerge.merging.architecture.depth import built_config

    models = dict.fromkeys(objective.rewards for objective in rewards_of(evaluator))
    for checkpoint in (model.checkpoint for model in models):
        try:
            check_buildable(checkpoint, built_config(checkpoint))
        except CheckpointError as error:
            raise ConfigError(f"objectives: the reward model cannot be used: {error}") from error
    for objective in rewards_of(evaluator):
        for document in range(len(objective.rows)):
            _check_prompt(objective, document, tokenizer, reference)


def _check_prompt(
    objective: RewardObjective, document: int, tokenizer: Any, reference: str
) -> None:
    prompt, rewards = objective.prompt(document), objective.rewards
    row, judge = f"row {document + 1} of {objective.info.name}", rewards.checkpoint
    if not isinstance(prompt, str):
        for name, own in ((reference, tokenizer), (judge.reference, rewards.tokenizer)):
            try:
                own.apply_chat_template(list(prompt), tokenize=False)
            except Exception as error:  # a template may raise anything
                raise ConfigError(
                    f"objectives: {row} has messages that the tokenizer of {name!r} cannot write "
                    f"({one_line(error).rstrip('.')}); give a tokenizer with a chat template for "
                    "them, or write a `prompt`."
                ) from error
    most = min(
        rewards.tokenizer.model_max_length,
        judge.text_config.get("max_position_embeddings") or math.inf,
    )
    tokens = rewards.count_tokens(rewards.tokenizer, rewards.input(prompt, ""))
    if tokens >= most:
        raise ConfigError(
            f"objectives: {row} has {tokens} tokens, and the reward model {judge.reference!r} "
            f"reads at most {most:g}, so it would see nothing of an answer; shorten the prompt, or "
            "give a reward model that reads more."
        )

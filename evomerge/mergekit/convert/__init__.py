"""Converting the configs of searches that merge with mergekit to search files.

Which tool a config is from, mergekit-evolve or mergenetic, shows in its keys.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.mergekit.convert.draft import Conversion as Conversion
from evomerge.mergekit.convert.mergekit_evolve import ModelFiles, from_mergekit_evolve
from evomerge.mergekit.convert.mergenetic import from_mergenetic
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping

_EVOLVE = ("genome", "tasks")
_MERGENETIC = ("pop_size", "n_iter", "run_id", "langs", "path_to_store_config")


def convert_file(file: Path) -> Conversion:
    """Return the search file for a config of mergekit-evolve or mergenetic on disk.

    The models need not be there. If they are, their config files are read; of a model on the Hub,
    only these are downloaded. Relative paths in the config start from the working folder, as in
    both tools.

    Raises:
        InputError: the file cannot be read, is of neither tool, or cannot be converted.
    """
    return convert(read_text(file, RecipeError), str(file), ModelFiles(Path.cwd()))


def convert(text: str, source: str, lookup: ModelFiles) -> Conversion:
    """Return the search file for the text of a config; `source` is its name, for messages."""
    data = yaml_mapping(text, source, "a config that can be converted", RecipeError)
    if any(key in data for key in _MERGENETIC):
        return from_mergenetic(data).finish(source)
    if any(key in data for key in _EVOLVE):
        return from_mergekit_evolve(data, lookup).finish(source)
    if "merge_method" in data or "slices" in data:
        found = (
            "it is a mergekit file, which needs no conversion; "
            "`evomerge merge FILE --out DIR` reads it as it is."
        )
    elif "experts" in data:
        found = (
            "it is a file of mergekit-moe, which needs no conversion; "
            "`mergekit-moe FILE DIR` reads it as it is."
        )
    elif "objectives" in data or "stages" in data:
        found = "it is already a search file; check it with `evomerge validate`."
    else:
        found = (
            "a mergekit-evolve config has the keys `genome` and `tasks`, a mergenetic config has "
            "`pop_size` and `n_iter`."
        )
    raise RecipeError(f"{source} is not a config that can be converted: {found}")

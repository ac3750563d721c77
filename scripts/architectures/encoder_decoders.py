"""Says which stacks of encoder-decoders of full size a search merges, and what scores them.

    python -m scripts.architectures.encoder_decoders [NAME ...]

Models are built from the default configs of transformers, on the meta device: they have names and
shapes, and no weights. For each architecture a line has the blocks of both stacks, whether the
decoder has a component `cross_attention`, and whether lm-eval's tasks can be scored (`texts`). The
last line counts them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto
from transformers.utils import logging

from evomerge.errors import CheckpointError
from evomerge.models.encoder_decoder import check_writes, is_encoder_decoder, merged_stacks
from evomerge.models.stacks import component_filters
from scripts.architectures.vision import checkpoint_of

KINDS = {
    **modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
"""Architecture -> its model class, or several; some have no encoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all if none")
    logging.set_verbosity(50)
    whole = count = 0
    for name in parser.parse_args().names or sorted(KINDS):
        kind = KINDS[name] if isinstance(KINDS[name], str) else KINDS[name][0]
        try:
            with torch.device("meta"):
                config = configuration_auto.CONFIG_MAPPING[name]()
                found = checkpoint_of(getattr(transformers, kind)(config), name)
        except Exception as error:
            print(f"{name:24}left out: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        found = replace(found, config={**found.config, "architectures": [kind]})
        if not is_encoder_decoder(found):
            continue
        stacks = merged_stacks(found)
        whole, count = whole + (len(stacks) == 2), count + 1
        told = [", ".join(f"{len(stack)} in {prefix}" for prefix, stack in stacks.items())]
        told += ["cross_attention"] * ("cross_attention" in component_filters(found.decoder_stack))
        try:
            check_writes(found)
            told.append("texts")
        except CheckpointError:
            pass
        print(f"{name:24}{'; '.join(told)}", flush=True)
    print(f"{whole} of {count} encoder-decoders have two stacks, which are merged")


if __name__ == "__main__":
    main()

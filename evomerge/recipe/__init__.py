"""A recipe: the complete description of one merged model.

For every block of the merged model, and for the tensors outside of the blocks, a recipe names the
merge method, the source tensors and the value of every knob. Two equal recipes build bit-equal
models. Recipes are canonical: 1 and 1.0 are the same number, as are 0.0 and -0.0; mappings are
sorted. Fields at their default are not written, so that digests stay the same when a field is added
to the format.

In YAML::

    host: zoo:base              # gives config, tokenizer and every tensor that is not merged
    dtype: bfloat16
    embeddings: {method: ..., sources: [...], base: ..., knobs: {...}}
    layers:
      model.layers: [{...}, {...}, ...]                               # one for each block, in order
    head: {...}                                                       # final norm, head
    vision: {...}              # the vision tower; left out: the host's, as are `projector`, `audio`
    pins: {zoo:base: {sha256: ...}, ...}     # the content of the parents; another one is refused
"""

from evomerge.recipe.layer import DTYPES, MODALITIES, Knob, Layer, Pin, Source, knob_at, number
from evomerge.recipe.recipe import Recipe

__all__ = ["DTYPES", "MODALITIES", "Knob", "Layer", "Pin", "Recipe", "Source", "knob_at", "number"]

"""From a search file to a `Problem`, and from the record of a run back to one.

Names that mean the same everywhere here:

- `config`: the search file, parsed.
- `record`: what was resolved when a run began, its `manifest.json`.
- `problem`: a `Problem`, and `checkpoints`: its parents by reference, without loaded weights.
- `relative_to`: folder of relative paths; if nothing is there, the working folder is tried.
- `allowed`: what the user allows, such as code of models; see `Permissions`.

What is wrong with input, whoever finds it, is an `InputError` with one sentence.
"""

"""From a search file to a search that runs: check, freeze, build, estimate.

Names that mean the same everywhere here:

- `config`: the search file, parsed. That of a run has `config.frozen` too, from `manifest.json`.
- `problem`: a `Problem`, and `checkpoints`: its parents by reference, without loaded weights.
- `relative_to`: folder of relative paths; if nothing is there, the working folder is tried.
- `allowed`: what the user allows, such as code of models; see `Permissions`.

What is wrong with input, whoever finds it, is an `InputError` with one sentence.
"""

"""The pages of `docs/` that are made from the code, and what a site has besides `docs/`.

`python -m scripts.site` writes the former: the keys of a search file and of a recipe, the commands,
Python, the methods. `mkdocs.yml` names `hooks.py`, which adds the latter when the site is built.
"""

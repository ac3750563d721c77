"""What the documentation site is made of besides the pages in `docs/`.

`mkdocs.yml` names `hooks.py`. When the site is built, it adds the pages that are written from the
code: the keys of a search file, the commands, the Python API, the tables of methods, the errors.
"""

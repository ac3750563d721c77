"""Code that search files name: which files it stands in, consent to run it, running exactly it."""

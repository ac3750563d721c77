"""Tables, intervals and pages about a run, made from its journal."""

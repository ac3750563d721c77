"""The showcase: merge searches over experts of real language models, mainly SmolLM2-135M-Instruct.

`python -m scripts.real` does everything in the folder `runs/showcase`, which git ignores: it
fetches the weights, trains the experts, writes the tasks, runs the searches and prints the table.
"""

#!/bin/sh
# Two searches with the models that come with evomerge: first weights (configs/evolution.yaml), then
# a path through the layers of the merge that was found and of the maths expert.
#   sh examples/weights-then-path.sh                    (about three minutes on two cores, no GPU)
#   RUNS=runs/seed-1 sh examples/weights-then-path.sh --set seed=1
# Call it again after an interrupt: each command goes on, or finds that it is done.
# Source: arXiv 2403.13187, sections 3.1 to 3.3; scores are in docs/results.md.
set -eu
runs=${RUNS:-runs/weights-then-path}

evomerge search configs/evolution.yaml --run "$runs/weights" --resume "$@"
[ -d "$runs/merge" ] || evomerge export "$runs/weights" --out "$runs/merge"
evomerge search configs/dataflow.yaml --run "$runs/path" --resume \
    --set "parents=[$runs/merge, zoo:maths]" \
    --set "space={kind: dataflow, variant: structured, repeats: 1,
        scales: [0.8, 1.25], layers: [5, 9]}" \
    --set budget.candidates=200 "$@"

#!/bin/sh
# Prepares a small ListOps, trains Luna-16 and its softmax twin, and prints the table. `make quickstart` calls it.
set -eu
PYTHON=${PYTHON:-python3}
WORK=${WORK:-runs/quickstart}
DATA=${DATA:-data}

"$PYTHON" -m lra_tasks.prepare listops_small --data_dir "$DATA"
for model in luna16 transformer; do
  echo
  "$PYTHON" -m lra_tasks.train --config "configs/listops_$model.py:cpu" --workdir "$WORK/$model" --data_dir "$DATA" "$@"
done
echo
"$PYTHON" -m lra_tasks.results "$WORK" --task listops_small
echo
echo "Next: let it answer an expression, or train on the full ListOps (README.md):"
echo "  $PYTHON -m lra_tasks.evaluate --workdir $WORK/luna16 --text \"[MAX 2 9 [MIN 4 7 ] 0 ]\""

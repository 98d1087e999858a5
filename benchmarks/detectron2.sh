#!/usr/bin/env bash
# Builds Detectron2 from its source into this environment, for `tools/benchmark.py suite=train` and `suite=infer`.
#
#   uv run bash benchmarks/detectron2.sh [SOURCE]
#
# SOURCE is a folder or git repository; the default is the project's repository. Compiling takes about five minutes.
set -euo pipefail
source=${1:-https://github.com/facebookresearch/detectron2.git}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet --depth 1 "$source" "$work/detectron2"
# Its model needs only these of its dependencies, besides torch, torchvision, pycocotools and hydra-core.
uv pip install fvcore iopath yacs tabulate cloudpickle termcolor matplotlib 'setuptools<81'
uv pip install --no-deps --no-build-isolation "$work/detectron2"
python -c 'import detectron2; print("detectron2", detectron2.__version__)'

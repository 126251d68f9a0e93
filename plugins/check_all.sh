#!/usr/bin/env bash
# Every plugin of this folder, and a new one of every kind that can be scaffolded, passes its own tests where nothing but
# medrecon is installed: a fresh virtual environment, a copy of the tree, no network for the tests. Takes some minutes.
#   PYTHON=python3.12 PINS=constraints.txt plugins/check_all.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
pins=$PWD/${PINS:-constraints.txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/tree"
cp -r medrecon csrc plugins pyproject.toml setup.py MANIFEST.in README.md LICENSE NOTICE "$work/tree"
find "$work/tree" \( -name '__pycache__' -o -name '*.egg-info' -o -name '*.so' \) -prune -exec rm -rf {} +

"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip "$@" --quiet -c "$pins"; }
pip install --upgrade pip setuptools wheel
pip install torch torchvision pybind11 ninja numpy pytest
pip install --no-build-isolation "$work/tree"
packages=("$work"/tree/plugins/*/)
pip install --no-build-isolation "${packages[@]}"

cd "$work"
for kind in matcher extractor pairing; do
  venv/bin/medrecon plugins new "$kind" "scaffolded-$kind" --out "$work/new" >/dev/null
done
scaffolded=("$work"/new/*/)
pip install --no-build-isolation "${scaffolded[@]}"
venv/bin/medrecon plugins check
for package in "${packages[@]}" "${scaffolded[@]}"; do
  echo "== $(basename "$package")"
  (cd "$package" && MPLBACKEND=agg "$work/venv/bin/python" -m pytest -q -rs -p no:cacheprovider tests)
done
echo "every plugin passes"

#!/usr/bin/env bash
# Makes pretrained/gof_people.safetensors from nothing: heads, training, export, and its figures on people held out. About two hours on two CPU cores.
# Run again, it goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
"$python" scripts/make_people.py heads --layout pigan --resolution 64 --count 2000 --views 2 --split train --out data/people_gof
"$python" gof/train.py -c configs/gof/people.yml
rm -f pretrained/gof_people.safetensors
"$python" scripts/convert.py gof log/gof_people pretrained/gof_people.safetensors --half
"$python" gof/eval.py --checkpoint pretrained/gof_people.safetensors --split test
"$python" gof/render.py --checkpoint pretrained/gof_people.safetensors

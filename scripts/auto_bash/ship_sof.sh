#!/usr/bin/env bash
# Makes pretrained/sof_people.safetensors from nothing: heads, training, export, and its IoU on unseen views and, by inversion, on unseen heads.
# Run again, it goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
"$python" scripts/make_people.py heads --count 60 --views 24 --split train --rgb False --out data/people
"$python" scripts/make_people.py heads --count 6 --views 24 --split test --rgb False --out data/people_test
"$python" sof/train.py -c configs/sof/people.yml
"$python" sof/eval.py --checkpoint log/people
rm -f pretrained/sof_people.safetensors
"$python" scripts/convert.py sof log/people pretrained/sof_people.safetensors --half
"$python" sof/invert.py --checkpoint log/people --data data/people_test --out out/people_inversion

#!/usr/bin/env bash
# From stem files to what Spleeter trains from, 2 stems: examples/prepare_spleeter.sh STEMS OUT
set -euo pipefail
stems=$1
out=$2
musdbkit convert "$stems" "$out/wav"
musdbkit make-csv "$out/wav" --stems 2 --out "$out"
musdbkit make-csv "$out/wav" --check "$out/musdb_2stems_train.csv"
echo "now: spleeter train -p $out/musdb_2stems.json -d $out/wav"

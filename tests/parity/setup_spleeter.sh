#!/bin/sh
# Install Spleeter 2.4.2 (with TensorFlow) in a virtual environment of its own, for the parity tests of Spleeter.
# It needs Python 3.11 or older, and an ffmpeg program on the PATH.
# Usage: setup_spleeter.sh FOLDER
set -eu
folder=${1:?usage: setup_spleeter.sh FOLDER}
python3.11 -m venv "$folder"
"$folder/bin/pip" install --quiet spleeter==2.4.2
"$folder/bin/python" -c "import spleeter.dataset"
for program in ffmpeg ffprobe; do
    command -v "$program" >/dev/null || echo "warning: no $program on the PATH, which Spleeter needs" >&2
done
echo "export MUSDBKIT_SPLEETER_PYTHON=$(cd "$folder" && pwd)/bin/python"

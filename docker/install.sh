#!/usr/bin/env bash
# Installs wat2mds into a Python 3.11: the steps of the image (docker/Dockerfile) and of a clone's .venv (`make env`), in this order.
#   docker/install.sh uv           [PYTHON]   the installer
#   docker/install.sh dependencies [PYTHON]   requirements.txt, the lock
#   docker/install.sh package      [PYTHON]   this folder's package, editable; asks no network
# PYTHON is the one to install into, a virtual environment's or the system's; further arguments are uv's.
set -euo pipefail
cd "$(dirname "$0")/.."
step=${1:?uv, dependencies or package}
python=${2:-python3}
shift $(($# < 2 ? $# : 2))

# A path that uv takes for an environment: a bare name would be looked for anew, and a virtual environment beside us found first.
python=$(command -v "$python")
install() {
    "$python" -m uv pip install --python "$python" "$@"
}

case $step in
    uv) "$python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore 'uv==0.13.9' ;;
    dependencies) install --compile-bytecode --requirement requirements.txt "$@" ;;
    # setuptools is one of the dependencies: the lock's builds the package.
    package) install --no-deps --no-build-isolation --editable . "$@" ;;
    *) echo "there is no step $step: uv, dependencies or package" >&2 && exit 78 ;;
esac

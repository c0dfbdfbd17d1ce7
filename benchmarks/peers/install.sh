#!/bin/sh
# Make the virtual environments of the servers named, each by itself, at the versions that were measured.
#
#   benchmarks/peers/install.sh NAME...       # mms torchserve mosec litserve bentoml mlserver pytriton ray fe deepsparse
#
# HEADRACE_PEERS  folder of the environments, `venv-NAME` each   (default: .peers at the top of the repository)
# PYTHON          the interpreter they are made with             (default: python3)
# pip's own settings (index, proxy, cache) are respected: set them as for any other install.
#
# What pip cannot bring, and this script does not install:
#   wrk                        the load                            apt-get install wrk
#   openjdk-17-jre-headless    java, for mms and torchserve        apt-get install openjdk-17-jre-headless
set -eu

here=$(cd "$(dirname "$0")" && pwd)
peers=${HEADRACE_PEERS:-$(dirname "$(dirname "$here")")/.peers}
python=${PYTHON:-python3}

real="onnxruntime==1.32.0 numpy==2.4.6" # for the servers that are measured with a real model too

requirements() {
    case $1 in
    mms) echo "multi-model-server==1.1.11 model-archiver==1.0.3 $real" ;;
    torchserve) echo "torchserve==0.12.0 torch-model-archiver pyyaml $real" ;; # its worker imports yaml
    mosec) echo "mosec==0.9.8 $real" ;;
    litserve) echo "litserve==0.2.19" ;;
    bentoml) echo "bentoml==1.4.39" ;;
    mlserver) echo "mlserver==1.7.1 uvloop<0.22" ;; # it still asks uvloop for an event loop policy
    pytriton) echo "nvidia-pytriton==0.7.0" ;; # needs a Python 3.11 older than 3.11.5: say which with PYTHON
    ray) echo "ray[serve]==2.60.0" ;;
    deepsparse) echo "deepsparse==1.8.0 setuptools<80" ;; # Python 3.11 at most; it imports pkg_resources
    fe) echo "uvicorn==0.54.0 uvloop==0.22.1 httptools==0.9.0" ;; # the bare HTTP stacks: uvicorn-raw, proto-raw
    *) return 1 ;;
    esac
}

[ $# -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
for name; do
    requirements "$name" >/dev/null || { echo "$name: not one of mms torchserve mosec litserve bentoml mlserver pytriton ray fe deepsparse" >&2; exit 2; }
done

for name; do
    venv=$peers/venv-$name
    echo "== $name -> $venv"
    "$python" -m venv "$venv"
    pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
    # torch first and pinned, or torchserve's archiver is free to choose another.
    [ "$name" != torchserve ] || $pip install torch==2.13.0
    # shellcheck disable=SC2046  # one word per requirement
    $pip install $(requirements "$name")
done

command -v wrk >/dev/null || echo "wrk is missing: apt-get install wrk"
case " $* " in
*" mms "* | *" torchserve "*) command -v java >/dev/null || echo "java is missing: apt-get install openjdk-17-jre-headless" ;;
esac

# The embedded models on a CPU; Dockerfile.cuda is the one for GPUs.
#
#   docker build -t usd .
#   docker run --rm -it -v "$PWD/outputs:/usd/outputs" usd python -m usd demo
#   docker run --rm -it -v "$PWD/outputs:/usd/outputs" -v "$PWD/my.png:/my.png:ro" usd \
#       python launch.py --config configs/usd-patch-mini.yaml --train system.guidance.image_path=/my.png
FROM python:3.12-slim

# Warp compiles its CPU kernels when they are first used, into this folder; libgomp is torch's thread library.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 XDG_CACHE_HOME=/var/cache/usd

WORKDIR /usd
COPY requirements.txt constraints.txt ./
RUN python -m pip install --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -r requirements.txt

COPY . .
RUN useradd --create-home usd && mkdir -p outputs "$XDG_CACHE_HOME" && chown -R usd: outputs "$XDG_CACHE_HOME"
USER usd

CMD ["python", "launch.py", "--doctor"]

# CUDA (PyPI's wheels of PyTorch bring it along; the host needs NVIDIA's container toolkit):
#   docker build -t pacl .
#   docker run --gpus all -v "$PWD:/data" pacl segment photo.jpg cat sofa
# Without a GPU, and gigabytes smaller:
#   docker build -t pacl --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker run -v "$PWD:/data" pacl segment photo.jpg cat sofa
FROM python:3.11-slim

# What opencv-python links to.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /opt/pacl-mmseg
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" \
    --extra-index-url https://pypi.org/simple torch torchvision
COPY . .
RUN MMCV_WITH_OPS=0 pip install --no-cache-dir -c constraints.txt '.[onedl]'

# Weights and embeddings that are fetched or made stay in volumes, if these are mounted.
ENV HF_HOME=/cache/huggingface PACL_CACHE_DIR=/cache/pacl
WORKDIR /data
ENTRYPOINT ["pacl"]
CMD ["--help"]

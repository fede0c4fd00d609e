# The course as a single-user image for JupyterHub. How to build, try and use it: docs/teaching.md
FROM python:3.11-slim

# Where pip finds PyTorch without CUDA, and the version of JupyterHub, which has to be that of your hub.
ARG TORCH_INDEX=
ARG JUPYTERHUB_VERSION=6.1.1

# JupyterHub on Kubernetes mounts the home of user 1000 here.
RUN useradd --create-home --uid 1000 jovyan

WORKDIR /opt/kdcourse
COPY constraints.txt .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt \
    torch torchvision "jupyterhub==$JUPYTERHUB_VERSION"
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[homework]" && .binder/postBuild

ENV KDCOURSE_DATA=/opt/kdcourse/data \
    JUPYTERHUB_DEFAULT_URL=/lab/tree/kdcourse-notebooks/index.ipynb
USER 1000
WORKDIR /home/jovyan
# Whatever a hub starts instead of the command, it starts through this.
ENTRYPOINT ["/opt/kdcourse/.binder/start"]
CMD ["jupyterhub-singleuser"]

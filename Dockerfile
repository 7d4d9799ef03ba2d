# tokenmill on a CPU: `docker build --tag tokenmill .`. docs/docker.md says what else there is.
FROM python:3.11-slim

# The index of PyTorch's CPU build: a quarter of the size of the build with CUDA, which an empty TORCH_INDEX takes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=samples,formats,postgres,s3
# The user's number in the container. Files that are mounted there have to be readable for it.
ARG UID=1000

RUN useradd --uid "$UID" --create-home mill && install --directory --owner mill --mode 700 /mill

COPY . /opt/tokenmill
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --constraint /opt/tokenmill/constraints.txt "/opt/tokenmill[$EXTRAS]"

USER mill
ENV TOKENMILL_HOME=/mill
VOLUME /mill
WORKDIR /project
ENTRYPOINT ["sh", "/opt/tokenmill/docker/entrypoint.sh"]
CMD ["--help"]

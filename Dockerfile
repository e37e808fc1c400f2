# The library and the deployment's applications (workers/); one image for every role of docker-compose.yml.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY stageflow_durable ./stageflow_durable
RUN pip install --no-cache-dir --prefix=/install ".[postgres,flower]"

FROM python:${PYTHON}-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home stageflow
COPY --from=build /install /usr/local
WORKDIR /app
COPY workers ./workers
USER stageflow
CMD ["stageflow", "--help"]

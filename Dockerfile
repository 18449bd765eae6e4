# One peer of Atoll, or any other `atoll` command: docker build -t atoll . && docker run --rm atoll version
# compose.yaml runs three peers of it; docs/operate.md says how.

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY ring/ ring/
COPY gossip/ gossip/
COPY peer/ peer/
COPY tui/ tui/
COPY tools/ tools/
RUN python -m venv /opt/atoll \
    && /opt/atoll/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.12-slim-bookworm
# A fixed number, so that volumes keep their owner from one image to the next. The directories are what fresh volumes are
# mounted on: they take their owner and mode from here.
RUN groupadd --system --gid 10001 atoll \
    && useradd --system --uid 10001 --gid atoll --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin atoll \
    && install --directory --owner=atoll --group=atoll --mode=0700 /var/lib/atoll /secrets
COPY --from=build /opt/atoll /opt/atoll
ENV PATH=/opt/atoll/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ATOLL_DATA=/var/lib/atoll \
    ATOLL_ENDPOINT=http://127.0.0.1:7401
USER 10001:10001
EXPOSE 7400/tcp 7401/tcp 7402/tcp 7402/udp
# Lives, not: is ready. A peer without a majority is not ready, and must not be killed for it.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["atoll", "health", "--alive"]
# The process is PID 1 itself: it handles SIGTERM, and starts no other processes that would have to be waited for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["atoll"]
CMD ["peer"]

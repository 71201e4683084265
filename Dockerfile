# Agent and server from one image. The agent needs the host's pid namespace and these capabilities:
#   docker run --pid=host --cap-drop=ALL --cap-add=PERFMON --cap-add=BPF --cap-add=SYS_PTRACE --cap-add=SYSLOG \
#     -v /sys/kernel/btf:/sys/kernel/btf:ro IMAGE agent --server http://SERVER:4099
#   docker run --user pilotlight -p 4099:4099 -v pilotlight:/var/lib/pilotlight IMAGE \
#     server --listen 0.0.0.0:4099 --token-file /run/secrets/token
FROM debian:12-slim AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends clang libbpf-dev python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/pilotlight
COPY . .
# The paths in .venv are absolute, so it is made where it is used. Not editable: the image needs no sources.
RUN deploy/setup.sh && .venv/bin/python -m pip install -q --no-deps --force-reinstall . \
    && .venv/bin/python -m pip uninstall -q -y pip && find .venv -name __pycache__ -prune -exec rm -rf {} +

FROM debian:12-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libbpf1 python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pilotlight \
    && install -d -o pilotlight -g pilotlight -m 0700 /var/lib/pilotlight
COPY --from=build /opt/pilotlight/.venv /opt/pilotlight/.venv
VOLUME /var/lib/pilotlight
EXPOSE 4099
ENTRYPOINT ["/opt/pilotlight/.venv/bin/pilotlight"]
CMD ["check"]

"""Pyroscope's HTTP interfaces: its two ways in (ingest.py, push.py) and its queries (render.py, querier.py).

Sources: https://grafana.com/docs/pyroscope/latest/reference-server-api/ and the .proto files of
https://github.com/grafana/pyroscope/tree/main/api, whose field numbers are the format.
"""

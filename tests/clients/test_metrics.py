"""/metrics is what Prometheus' own parser takes, and what promtool's rules ask of names and help texts."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


def test_metrics_are_read_and_keep_the_rules(server: str) -> None:
    assert httpx.post(server + "/ingest?name=shop", content=b"main;hot 3\n").status_code == 200
    assert httpx.post(server + "/ingest?name=shop&format=nonsense", content=b"x").status_code == 400
    answer = httpx.get(server + "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert len(families) > 10 and len(families) == answer.text.count("# TYPE")
    for name, family in families.items():
        assert name.startswith("pilotlight_") and family.documentation.endswith(".")
        assert family.type in ("counter", "gauge") and not name.endswith(("_count", "_sum", "_bucket"))
        seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(seen) == len(set(seen))
        for sample in family.samples:
            # promtool: counters end in _total, nothing else does; base units only.
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert sample.value >= 0
        assert not any(unit in name for unit in ("milli", "micro", "minutes", "kilobytes", "megabytes"))
    assert families["pilotlight_pushes"].samples[0].value == 1
    rejected = {sample.labels["reason"]: sample.value for sample in families["pilotlight_rejected"].samples}
    assert rejected == {"malformed": 1}

"""opentelemetry-proto's messages, posted by a client of its own, in both of OTLP's encodings."""

from __future__ import annotations

import gzip
import time

import httpx
import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
    ExportProfilesServiceResponse,
)


def request(host: str, start: int) -> ExportProfilesServiceRequest:
    """Two stacks of one process, as the specification's own data model has them: no attribute of pilotlight's."""
    message = ExportProfilesServiceRequest()
    tables = message.dictionary
    strings = ["", "host.name", "service.name", "samples", "count", "cpu", "nanoseconds", "main", "hot", "thread.name"]
    tables.string_table.extend(strings)
    tables.mapping_table.add()
    tables.link_table.add()
    tables.attribute_table.add()
    thread = tables.attribute_table.add(key_strindex=strings.index("thread.name"))
    thread.value.string_value = "worker"
    tables.function_table.add()
    tables.location_table.add()
    tables.stack_table.add()
    for name in ("main", "hot"):
        tables.function_table.add(name_strindex=strings.index(name))
        tables.location_table.add().lines.add(function_index=len(tables.function_table) - 1, line=7)
    tables.stack_table.add(location_indices=[1])
    tables.stack_table.add(location_indices=[2, 1])
    resource = message.resource_profiles.add()
    for key, text in (("host.name", host), ("service.name", "checkout")):
        resource.resource.attributes.add(key=key).value.string_value = text
    profile = resource.scope_profiles.add().profiles.add(
        time_unix_nano=start * 10**9, duration_nano=10 * 10**9, period=10_000_000
    )
    profile.sample_type.type_strindex, profile.sample_type.unit_strindex = 3, 4
    profile.period_type.type_strindex, profile.period_type.unit_strindex = 5, 6
    profile.samples.add(stack_index=1, values=[30], attribute_indices=[1])
    profile.samples.add(stack_index=2, values=[12], attribute_indices=[1])
    return message


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_message_of_the_specifications_own_library_is_stored_whole(server: str, encoding: str) -> None:
    start = int(time.time()) - 60
    message = request(encoding, start)
    if encoding == "json":
        content = json_format.MessageToJson(message).encode()
        headers = {"content-type": "application/json"}
    else:
        content = gzip.compress(message.SerializeToString())
        headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
    for _ in range(2):  # as an exporter does that did not hear the answer
        answer = httpx.post(server + "/v1development/profiles", content=content, headers=headers)
        assert answer.status_code == 200
    if encoding == "json":
        assert answer.json() == {}
    else:
        assert not ExportProfilesServiceResponse.FromString(answer.content).HasField("partial_success")
    folded = httpx.get(server + "/flamegraph.folded", params={"host": encoding, "from": start - 1})
    assert sorted(folded.text.splitlines()) == ["checkout;worker;main 30", "checkout;worker;main;hot 12"]

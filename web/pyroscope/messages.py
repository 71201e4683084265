"""The protobuf messages of Pyroscope's connect services, by their names there.

Sources: push/v1/push.proto, querier/v1/querier.proto and types/v1/types.proto in
https://github.com/grafana/pyroscope/tree/main/api. The packages are one here, which the bytes do not show.
"""

from __future__ import annotations

from typing import Any, Final

from profiler.formats.protobuf import message_classes

_SELECT: Final = "1 profile_typeID string, 2 label_selector string, 3 start int64, 4 end int64"

MESSAGES: Final[dict[str, Any]] = message_classes(
    "pyroscope",
    {
        "LabelPair": "1 name string, 2 value string",
        "Labels": "1 labels LabelPair*",
        "RawSample": "1 raw_profile bytes, 2 ID string",
        "RawProfileSeries": "1 labels LabelPair*, 2 samples RawSample*",
        "PushRequest": "1 series RawProfileSeries*",
        "PushResponse": "",
        "ProfileType": (
            "1 ID string, 2 name string, 4 sample_type string, 5 sample_unit string, 6 period_type string,"
            "7 period_unit string"
        ),
        "ProfileTypesRequest": "1 start int64, 2 end int64",
        "ProfileTypesResponse": "1 profile_types ProfileType*",
        "LabelValuesRequest": "1 name string, 2 matchers string*, 3 start int64, 4 end int64",
        "LabelValuesResponse": "1 names string*",
        "LabelNamesRequest": "1 matchers string*, 2 start int64, 3 end int64",
        "LabelNamesResponse": "1 names string*",
        "SeriesRequest": "1 matchers string*, 2 label_names string*, 3 start int64, 4 end int64",
        "SeriesResponse": "2 labels_set Labels*",
        "Location": "1 name string",
        "StackTraceSelector": "1 call_site Location*",
        "SelectMergeStacktracesRequest": (
            f"{_SELECT}, 5 max_nodes int64, 6 format ProfileFormat, 7 stack_trace_selector StackTraceSelector,"
            "8 profile_id_selector string*"
        ),
        "SelectMergeProfileRequest": (
            f"{_SELECT}, 5 max_nodes int64, 6 stack_trace_selector StackTraceSelector, 7 profile_id_selector string*"
        ),
        "Level": "1 values int64*",
        "FlameGraph": "1 names string*, 2 levels Level*, 3 total int64, 4 max_self int64",
        "SelectMergeStacktracesResponse": "1 flamegraph FlameGraph",
        "DiffRequest": "1 left SelectMergeStacktracesRequest, 2 right SelectMergeStacktracesRequest",
        "FlameGraphDiff": (
            "1 names string*, 2 levels Level*, 3 total int64, 4 max_self int64, 5 leftTicks int64, 6 rightTicks int64"
        ),
        "DiffResponse": "1 flamegraph FlameGraphDiff",
        "Point": "1 value double, 2 timestamp int64",
        "Series": "1 labels LabelPair*, 2 points Point*",
        "SelectSeriesRequest": (
            f"{_SELECT}, 5 group_by string*, 6 step double, 7 aggregation TimeSeriesAggregationType,"
            "8 stack_trace_selector StackTraceSelector, 9 limit int64"
        ),
        "SelectSeriesResponse": "1 series Series*",
        "GetProfileStatsRequest": "",
        "GetProfileStatsResponse": "1 data_ingested bool, 2 oldest_profile_time int64, 3 newest_profile_time int64",
    },
    {
        "ProfileFormat": ("PROFILE_FORMAT_UNSPECIFIED", "PROFILE_FORMAT_FLAMEGRAPH", "PROFILE_FORMAT_TREE"),
        "TimeSeriesAggregationType": ("TIME_SERIES_AGGREGATION_TYPE_SUM", "TIME_SERIES_AGGREGATION_TYPE_AVERAGE"),
    },
)

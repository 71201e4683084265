"""OTLP profiles, the wire between agent and server, and the way in for any other OTLP profiler.

The format is opentelemetry-proto's package v1development. Attributes are named by OpenTelemetry's
semantic conventions where those have a name, `pilotlight.*` where they have none:

- resource (one for each service, container and kind of CPU): host.name, service.name, container.id,
  host.cpu.model.name and the profile's labels; a label whose key has a meaning of its own is written as
  pilotlight.label.KEY.
- scope: pilotlight.push.agent, .epoch and .sequence, see `PushIdentity`.
- profile: pilotlight.event and pilotlight.hz; on the first one, for all of them together,
  pilotlight.accounting.*, pilotlight.cost.* and, by the keys of Unwinding.counts(), pilotlight.unwinding.*.
- sample: process.pid, process.executable.name, thread.name.
- mapping: process.executable.build_id.gnu, or pilotlight.build_id for an id of another kind.
- location: profile.frame.type, the kind of the function that the address lies in. Where that does
  not say all: pilotlight.frame.kinds and .reasons, separated by commas, in the order of the lines.

otlp_write.py writes this; otlp_read.py reads it, with its tables in otlp_dictionary.py; what the profiles of other
profilers mean is in otlp_foreign.py.
"""

from profiler.formats.otlp_read import MAX_BODY, Received, read_otlp, read_otlp_json
from profiler.formats.otlp_write import PushIdentity, write_otlp

__all__ = ["MAX_BODY", "PushIdentity", "Received", "read_otlp", "read_otlp_json", "write_otlp"]

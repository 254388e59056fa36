"""Records as CloudEvents 1.0 (structured JSON), for systems that collect events.

`id` is the record's own, so that whoever gets an event twice can tell. `sequence` is its place in the ledger (the
Sequence extension), `traceparent` its trace (the Distributed Tracing extension). `data` is the record itself, as it
stands under the Merkle tree; payloads are never in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkrein.ledger import Record
from checkrein.ledger.record import facets
from checkrein.model.json import dumps, loads
from checkrein.model.stamp import stamp

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
#: what every type begins with
TYPE = "dev.checkrein."


def event(record: Record, source: str) -> dict[str, object]:
    """One record. `source` names the ledger, such as its checkpoint's origin."""
    made: dict[str, object] = {
        "specversion": "1.0",
        "id": record.id,
        "source": source,
        "type": TYPE + record.kind,
        "time": stamp(record.ts_us),
        "sequence": f"{record.seq:020}",
        "datacontenttype": "application/json",
        "data": loads(record.data),
    }
    subject = facets(record.body).user
    if subject:
        made["subject"] = subject
    if record.trace_id.strip("0"):
        made["traceparent"] = f"00-{record.trace_id}-{record.trace_id[:16]}-01"
    return made


def batch(records: Sequence[Record], source: str) -> bytes:
    """Several records, as the JSON Batch Format."""
    return dumps([event(record, source) for record in records])

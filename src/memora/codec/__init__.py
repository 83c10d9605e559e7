"""Convert results to bytes and back, exactly.

A value is split into simpler parts until only JSON and raw buffers remain, and is rebuilt the same
way. Each library has one table of the kinds of value and their parts (`_stdlib`, `_numpy`,
`_pandas`, `_polars`, `_arrow`, `_pytz`, `_dateutil`). `_tree` walks the value, `_envelope` frames
and checks the bytes, `_objects` handles the classes an application registers, `_types` finds the
classes of their fields, and `_proof` checks that an encoded value can be decoded.

Rules: a value that would come back changed is refused. A record refers to kinds by Memora's own
names; nothing is imported, evaluated or called because a record says so. A library is imported
only if the application has imported it, or if a record holds one of its values.
"""

from memora.codec._codec import Codec

__all__ = ["Codec"]

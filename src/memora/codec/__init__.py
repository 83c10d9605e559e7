"""Results to bytes and back, exactly.

A value is taken apart into simpler ones until JSON and raw buffers are left, and put together the
same way. What each kind of value is made of stands in one table a library (`_stdlib`, `_numpy`,
`_pandas`, `_polars`, `_arrow`, `_pytz`, `_dateutil`); `_tree` walks, `_envelope` frames and
checks the bytes, `_objects` knows the classes an application registers, `_types` finds those that
they are made of, `_proof` tells whether what was stored can be read.

The rules: a value that would come back changed is refused. A record names kinds, by names of ours;
nothing is imported, evaluated or called because a record says so. A library is imported only once
the application has, or once a record holds one of its values.
"""

from memora.codec._codec import Codec

__all__ = ["Codec"]

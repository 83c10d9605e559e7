"""Identity of a table: the embedder that made its vectors, and the version of its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memora.errors import ModelMismatchError, StoreFormatError

FORMAT = 5
"""Version of the table's layout, recorded in the schema."""
OLDEST_FORMAT = 4
"""The oldest readable format; `EntryTable.upgrade` brings such a table to `FORMAT`."""


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """Embedder and layout of a table, recorded in the schema's metadata."""

    model: str
    dimension: int
    format: int = FORMAT

    def to_schema(self) -> dict[str, str]:
        """Return it as schema metadata."""
        return {
            "memora.format": str(self.format),
            "memora.model": self.model,
            "memora.dimension": str(self.dimension),
        }

    @classmethod
    def from_schema(cls, metadata: dict[bytes, bytes] | None) -> TableIdentity | None:
        """Parse schema metadata; None if it has none."""
        found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        try:
            return cls(
                format=int(found["memora.format"]),
                model=found["memora.model"],
                dimension=int(found["memora.dimension"]),
            )
        except (KeyError, ValueError):
            return None


def identity_of(table: Any, where: str) -> TableIdentity:
    """Return the identity of a table; raises StoreFormatError if it is not Memora's."""
    found = TableIdentity.from_schema(table.schema.metadata)
    if found is None:
        raise StoreFormatError(_not_ours(where))
    return found


def _not_ours(where: str) -> str:
    return f"{where} was not made by Memora, or its schema is damaged; choose another table_name"


def check_identity(found: TableIdentity | None, expected: TableIdentity, where: str) -> None:
    if found is None:
        raise StoreFormatError(_not_ours(where))
    if refusal := unreadable(found.format):
        advice = "upgrade memora-cache, or choose" if found.format > FORMAT else "choose"
        raise StoreFormatError(f"{where} {refusal}; {advice} another table_name")
    if (found.model, found.dimension) != (expected.model, expected.dimension):
        raise ModelMismatchError(
            f"{where} holds vectors of {found.model!r} ({found.dimension} dimensions), but this "
            f"cache embeds with {expected.model!r} ({expected.dimension} dimensions), and vectors "
            "of two models cannot be compared; open it with the first model, or choose another "
            "table_name for the second"
        )


def unreadable(version: int) -> str | None:
    """Return why this version of Memora cannot read a format; None if it can."""
    if OLDEST_FORMAT <= version <= FORMAT:
        return None
    return f"has format {version}, and this version of Memora reads {OLDEST_FORMAT} to {FORMAT}"

"""Export and import of entries, warming with known answers, and re-embedding for another model.

These operations are explicit, so faults are raised. A file is read and checked completely before
its first entry is written. After an interruption, run the operation again: it resumes, because an
entry that is already present is skipped.
"""

from memora.transfer._copy import copy_entries, reembed
from memora.transfer._export import export_entries
from memora.transfer._importer import ImportReport, Progress, import_entries, warm
from memora.transfer._items import Item

__all__ = [
    "ImportReport",
    "Item",
    "Progress",
    "copy_entries",
    "export_entries",
    "import_entries",
    "reembed",
    "warm",
]

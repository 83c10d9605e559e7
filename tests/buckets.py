"""Object storage in a dictionary, with faults that a test injects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from memora.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class DictBucket:
    """A `memora.stores.bucket._client.Bucket` over a dictionary, which several may share.

    Args:
        objects: Objects by name.
        uri: The directory in which LanceDB keeps its table.
    """

    lance_options: dict[str, str] = {}  # noqa: RUF012 - as in the original

    def __init__(self, objects: dict[str, bytes] | None = None, uri: str = "s3://dict") -> None:
        self.objects: dict[str, bytes] = {} if objects is None else objects
        self.uri = uri
        self.options: dict[str, str] = {}
        self.down = False
        self.open = threading.Event()
        self.open.set()
        self.puts: list[str] = []
        self.before: Callable[[str, str], None] = lambda _operation, _name: None
        """Called before each operation; may raise."""
        self.after: Callable[[str, str], None] = lambda _operation, _name: None
        """Called after each operation; may raise, so that its answer is lost."""

    def put(self, name: str, data: bytes) -> None:
        self.puts.append(name)
        assert self.open.wait(60)
        self.ask("put", name)
        self.objects[name] = data
        self.after("put", name)

    def create(self, name: str, data: bytes) -> bool:
        self.ask("create", name)
        created = self.objects.setdefault(name, data) is data
        self.after("create", name)
        return created

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self.ask("get", name)
        if name not in self.objects:
            raise FileNotFoundError(name)
        return self.objects[name][start : None if length is None else start + length]

    def list(self, folder: str) -> dict[str, int]:
        self.ask("list", folder)
        return {
            name.removeprefix(f"{folder}/"): len(data)
            for name, data in self.objects.items()
            if name.startswith(f"{folder}/")
        }

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.ask("delete", name)
            self.objects.pop(name, None)
            self.after("delete", name)

    def ask(self, operation: str, name: str) -> None:
        self.before(operation, name)
        if self.down:
            raise StoreError("no answer")

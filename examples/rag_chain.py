"""Answers that know the documents they rest on: `python examples/rag_chain.py`."""

from __future__ import annotations

from memora import CacheConfig, Memora
from memora.embedders import load_embedder

DOCUMENTS = {
    "refunds": "Refunds are paid to the original card within five business days.",
    "passwords": "To reset your password, choose Forgot password on the sign-in page.",
    "plans": "Single sign-on is part of the Enterprise plan.",
    "vacation": "Employees get 28 vacation days and 10 paid sick days.",
}


class Library:
    """Finds the documents nearest to a question."""

    def __init__(self, documents: dict[str, str]) -> None:
        self._embedder = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
        self.documents = dict(documents)

    def retrieve(self, question: str, k: int = 1) -> list[str]:
        """Return the names of the nearest."""
        asked, *vectors = self._embedder.embed([question, *self.documents.values()])
        scores = {
            name: float(vector @ asked)
            for name, vector in zip(self.documents, vectors, strict=True)
            if vector is not None and asked is not None  # None: more than the model can read
        }
        return sorted(scores, key=lambda name: -scores[name])[:k]


class Chain:
    """Retrieve, then generate; both only where the cache has no answer."""

    def __init__(self, cache: Memora, library: Library) -> None:
        self.calls = 0
        self._cache, self._library = cache, library

    def ask(self, question: str, tenant: str) -> str:
        """Answer a tenant's question."""
        context = {"chain": "faq", "model": "stub-1", "tenant": tenant}
        found = self._cache.lookup(question, context)
        if found.is_hit:
            print(f"  {question:<44} cache, asked as {found.matched_query!r}")
            return str(found.result)
        names = self._library.retrieve(question)
        answer = self._generate(names)
        # What the answer depends on; a document that changes takes its answers with it.
        self._cache.store(question, context, answer, tags=[f"doc:{name}" for name in names])
        print(f"  {question:<44} model, from {', '.join(names)}")
        return answer

    def _generate(self, names: list[str]) -> str:
        """Stand in for an LLM: quote what was retrieved."""
        self.calls += 1
        return " ".join(self._library.documents[name] for name in names)


def main() -> None:
    """Ask, change a document, ask again."""
    library = Library(DOCUMENTS)
    with Memora(CacheConfig(db_uri="memory://", log_level="WARNING")) as cache:
        chain = Chain(cache, library)
        chain.ask("How long do refunds take?", "acme")
        chain.ask("How long does a refund take?", "acme")
        chain.ask("How many vacation days do employees get?", "acme")
        chain.ask("How many sick days do employees get?", "acme")  # looks alike, and is not
        chain.ask("How long do refunds take?", "globex")  # another tenant

        print("  (the refunds page changes)")
        library.documents["refunds"] = "Refunds now arrive within two business days."
        cache.invalidate_tags("doc:refunds")
        answer = chain.ask("How long does a refund take?", "acme")
        print(f"  -> {answer}")
        chain.ask("How many days of vacation do employees get?", "acme")  # untouched
        print(f"7 questions, {chain.calls} calls of the model")


if __name__ == "__main__":
    main()

"""Agents that share one cache, and never each other's answers: `python examples/multi_agent.py`."""

from __future__ import annotations

from memora import CacheConfig, Memora

cache = Memora(
    CacheConfig(db_uri="memory://", eviction_policy="lru", max_entries=10_000, log_level="WARNING")
)


class SQLAgent:
    """Asks the cache by hand: look up, compute, store."""

    def __init__(self, cache: Memora) -> None:
        self.cache = cache
        self.calls = 0

    def query(self, question: str, database: str) -> list[tuple[str, float]]:
        """Answer from the cache, or else from the database."""
        context = {"agent": "sql", "db": database}
        found = self.cache.lookup(question, context)
        print(f"  sql {database:<10} {question:<50} {_outcome(found.reason)}")
        if found.is_hit:
            rows: list[tuple[str, float]] = found.result
            return rows
        rows = self._execute(database)
        self.cache.store(question, context, rows)
        return rows

    def _execute(self, database: str) -> list[tuple[str, float]]:
        self.calls += 1
        return [("north", 12.5), ("south", 7.25)] if database == "production" else []


class AnalysisAgent:
    """Has a decorated method: the same in one line, which names what must be equal.

    And what need not: any agent may answer for any other.
    """

    def __init__(self) -> None:
        self.calls = 0

    @cache.cached(query_param="question", strict_params=["model", "tools"], ignore=["self"])
    def analyze(self, question: str, model: str, tools: list[str]) -> str:
        """Stand in for an expensive analysis."""
        self.calls += 1
        return f"{question}: the north carries it ({model}, {' and '.join(tools)})"


def _outcome(reason: str) -> str:
    return f"from the cache ({reason})" if reason in {"exact", "semantic"} else f"run ({reason})"


def main() -> None:
    """Ask in other words, in other contexts, and something else."""
    sql, analyst = SQLAgent(cache), AnalysisAgent()
    print("The SQL agent, over two databases:")
    first = sql.query("Total revenue by region for March 2024", "production")
    again = sql.query("Show me total revenue per region in March 2024", "production")
    sql.query("Total revenue by region for April 2024", "production")  # another month
    staging = sql.query("Total revenue by region for March 2024", "staging")  # another database
    if again != first or staging == first:
        raise SystemExit("an answer went where it does not belong")
    print(f"  4 questions, {sql.calls} queries of a database")

    print("The analyst, with and without a tool:")
    for question, tools in (
        ("Analyze Q3 2024 sales performance", ["sql"]),
        ("Show me the Q3 2024 sales performance analysis", ["sql"]),
        ("Analyze Q3 2024 sales performance", ["sql", "web"]),
        ("Analyze Q4 2024 sales performance", ["sql"]),
    ):
        before = analyst.calls
        analyst.analyze(question, "large", tools)
        how = "run" if analyst.calls > before else "from the cache"
        print(f"  {' and '.join(tools):<14} {question:<50} {how}")
    print(f"  4 questions, {analyst.calls} analyses")

    stats = cache.get_stats()
    print(f"Together: {stats['hits']} hits, {stats['misses']} misses, {stats['hit_rate']}")
    cache.close()


if __name__ == "__main__":
    main()

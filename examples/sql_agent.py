"""Questions to a database, their DataFrames cached: `python examples/sql_agent.py`."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pandas as pd

from memora import CacheConfig, Memora

MONTHS = {"March": "2024-03", "April": "2024-04"}
SALES = [
    ("2024-03", "north", "lamp", 1200.0),
    ("2024-03", "south", "lamp", 700.0),
    ("2024-03", "south", "chair", 450.5),
    ("2024-04", "north", "chair", 980.0),
    ("2024-04", "south", "desk", 310.0),
]


class Model:
    """Stands in for an LLM that writes SQL: it knows three phrases and two months."""

    def __init__(self) -> None:
        self.calls = 0

    def write_sql(self, question: str) -> str:
        """Return SQL for a question about sales."""
        self.calls += 1
        column = "product" if "product" in question else "region"
        month = next((MONTHS[name] for name in MONTHS if name in question), "2024-%")
        top = re.search(r"top (\d+)", question, re.IGNORECASE)
        limit = f" LIMIT {top[1]}" if top else ""
        return (
            f"SELECT {column}, sum(amount) AS revenue FROM sales WHERE month LIKE '{month}' "  # noqa: S608 - all parts are ours
            f"GROUP BY {column} ORDER BY revenue DESC{limit}"
        )


class SQLAgent:
    """Answers questions from the cache, or else by the model and the database."""

    def __init__(self, cache: Memora, connection: sqlite3.Connection, database: str) -> None:
        self.model = Model()
        self._cache, self._connection = cache, connection
        self.context = {"agent": "sql", "db": database, "schema": 1}

    def ask(self, question: str) -> pd.DataFrame:
        """Return a table of its own each time: changing it changes nothing in the cache."""
        return self._cache.get_or_compute(
            question, self.context, lambda: self._computed(question), tags="table:sales"
        )

    def _computed(self, question: str) -> pd.DataFrame:
        return pd.read_sql_query(self.model.write_sql(question), self._connection)


def main() -> None:
    """Ask, ask in other words, ask for something else; change the data."""
    settings = CacheConfig(db_uri="memory://", log_level="WARNING")
    with Memora(settings) as cache, closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE sales (month, region, product, amount REAL)")
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", SALES)
        agent = SQLAgent(cache, connection, "production")

        def ask(question: str) -> pd.DataFrame:
            before = agent.model.calls
            table = agent.ask(question)
            how = "the model" if agent.model.calls > before else "the cache"
            rows = "; ".join(f"{name} {revenue:g}" for name, revenue in table.to_numpy())
            print(f"{question:<48} {how}: {rows}")
            return table

        march = ask("Total revenue by region for March 2024")
        again = ask("Show me total revenue per region in March 2024")
        pd.testing.assert_frame_equal(march, again)  # dtypes, index and all
        ask("Total revenue by region for April 2024")
        ask("Top 3 products by revenue")
        ask("Show the top 3 products by revenue")
        ask("Top 1 products by revenue")

        found = cache.lookup("Top 5 products by revenue", agent.context)
        evidence = found.evidence[0]
        print(
            f"'Top 5 products by revenue' would be a {'hit' if found else 'miss'}: "
            f"its cosine is {found.cosine:.2f}, but {evidence.kind}: {evidence.detail}"
        )

        connection.execute("INSERT INTO sales VALUES ('2024-03', 'north', 'desk', 100)")
        cache.invalidate_tags("table:sales")
        print("(a row is added, and what was made of the table is outdated)")
        ask("Show me total revenue per region in March 2024")
        print(f"{agent.model.calls} calls of the model for 7 questions")


if __name__ == "__main__":
    main()

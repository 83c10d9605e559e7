# %% [markdown]
"""Memora in a notebook.

Open this file in Jupyter (with jupytext), VS Code or PyCharm and run it cell by cell, or as a
script: `python examples/notebook.py`. A notebook has an event loop that is running already; the
methods without an `a` need none, so they work in any cell.
"""

# %%
from __future__ import annotations

import asyncio
import time

from memora import CacheConfig, Memora

cache = Memora(CacheConfig(db_uri="memory://", log_level="WARNING"))

# %% [markdown]
# An expensive function, decorated. `model` has to be equal; `prompt` may be said otherwise. The
# first hit takes longer than those after it, because it loads the judge's words.


# %%
@cache.cached(query_param="prompt")
def ask(prompt: str, model: str = "small") -> str:
    """Stand in for a call of an LLM."""
    time.sleep(0.5)
    return f"{model} explains: {prompt}"


for question in (
    "Explain quantum physics",
    "Can you explain quantum physics?",
    "Please explain quantum physics.",
):
    started = time.perf_counter()
    answer = ask(question)
    print(f"{question:<33} {answer}; {time.perf_counter() - started:.3f} s")
print(ask.cache_info())

# %% [markdown]
# Would this be answered? What speaks against it?

# %%
print(cache.explain("Explain classical physics", ask.cache_key("?").context))

# %% [markdown]
# The async twins wait without holding up the notebook. In a cell, simply `await at_once()`.


# %%
@cache.cached(query_param="prompt")
async def aask(prompt: str, model: str = "small") -> str:
    """Stand in for an asynchronous call."""
    await asyncio.sleep(0.2)
    return f"{model} explains: {prompt}"


async def at_once() -> None:
    """Ask ten times at one time: one call, nine wait for it."""
    answers = await asyncio.gather(*(aask("Explain quantum physics") for _ in range(10)))
    print(f"ten at once, {len(set(answers))} answer, {aask.cache_info()}")


# %%
try:
    asyncio.get_running_loop()
except RuntimeError:  # as a script, there is no loop yet
    asyncio.run(at_once())
else:
    running = asyncio.ensure_future(at_once())  # noqa: RUF006 - the notebook keeps it

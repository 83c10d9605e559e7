"""The breaker against a model that keeps the whole history and looks at it anew each time."""

from __future__ import annotations

from doubles import FakeClock
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memora.concurrency.breaker import Breaker


class BreakerMachine(RuleBasedStateMachine):
    """Three events make the history: a failure or success that counts, and a probe."""

    @initialize(failures=st.integers(1, 4), reset=st.integers(1, 10))
    def begin(self, failures: int, reset: int) -> None:
        self.clock = FakeClock(0.0)
        self.failures, self.reset = failures, reset
        self.breaker = Breaker(failures=failures, reset_seconds=reset, clock=self.clock)
        self.history: list[tuple[str, float]] = []

    def since(self) -> list[tuple[str, float]]:
        """What came after it closed last."""
        closed = [i for i, (what, _) in enumerate(self.history) if what == "success"]
        return self.history[closed[-1] + 1 :] if closed else self.history

    def opened_at(self) -> float | None:
        failed = [at for what, at in self.since() if what == "failure"]
        return failed[-1] if len(failed) >= self.failures else None

    def probed_at(self) -> float | None:
        """When the probe began that has told nothing yet."""
        since = self.since()
        return since[-1][1] if since and since[-1][0] == "probe" else None

    def state(self) -> str:
        opened = self.opened_at()
        if opened is None:
            return "closed"
        return "open" if self.clock.now < opened + self.reset else "half_open"

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def ask(self) -> None:
        probed = self.probed_at()
        taken = probed is not None and self.clock.now < probed + self.reset
        expected = self.state() == "closed" or (self.state() == "half_open" and not taken)
        assert self.breaker.allows() == expected
        if expected and self.state() == "half_open":
            self.history.append(("probe", self.clock.now))

    @rule(how=st.sampled_from(["success", "failure"]))
    def tell(self, how: str) -> None:
        if how == "success":
            self.breaker.succeeded()
        else:
            self.breaker.failed()
        if self.state() == "closed" or self.probed_at() is not None:
            self.history.append((how, self.clock.now))

    @invariant()
    def it_is_as_the_history_says(self) -> None:
        assert self.breaker.state == self.state()
        assert self.breaker.opened_at == self.opened_at()


TestBreakerMachine = BreakerMachine.TestCase

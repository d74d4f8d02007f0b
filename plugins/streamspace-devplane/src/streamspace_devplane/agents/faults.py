"""Fault switches, by which a test makes the control plane or the network misbehave."""

import random
import time
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Switch(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Selector(Switch):
    """Which envelopes a switch acts on, and how often."""

    direction: Literal["both", "to_agent", "from_agent"] = "both"
    types: list[str] = []
    """Envelope types; empty means all."""
    probability: float = Field(1.0, ge=0, le=1)
    count: int | None = Field(None, ge=0)
    """How many more times it acts; `None` is without limit."""

    def acts_on(self, direction: str, kind: str, dice: random.Random) -> bool:
        if self.direction not in ("both", direction) or (self.types and kind not in self.types) or self.count == 0:
            return False
        if self.probability < 1 and dice.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True


class Delay(Selector):
    seconds: float = Field(ge=0)
    """Each envelope arrives this much later; equally delayed ones stay in order."""


class Drop(Selector):
    """Envelopes vanish."""


class Duplicate(Selector):
    """Envelopes arrive twice."""


class Pack(Switch):
    """Hold frames to the agent until `count` envelopes wait or `seconds` passed, then send them as one frame."""

    count: int = Field(2, ge=2)
    seconds: float = Field(0.2, gt=0)


class Cut(Switch):
    """Cut the link without a closing handshake: now (`after=0`), or after so many envelopes, counted both ways."""

    after: int = Field(0, ge=0)
    agent_id: str | None = None


class Timed(Switch):
    seconds: float | None = Field(None, gt=0)
    """How long it lasts; `None`: until it is switched off."""
    since: float = Field(default_factory=time.monotonic, exclude=True)

    def over(self) -> bool:
        return self.seconds is not None and time.monotonic() >= self.since + self.seconds


class Refuse(Timed):
    """Answer agents with an HTTP status; `connection` resets their connections instead."""

    status: int | Literal["connection"] = 503
    retry_after: int | None = None
    """Value of the `Retry-After` header, if any."""
    paths: list[Literal["register", "connect"]] = ["register", "connect"]


class Blackhole(Timed):
    """Accept agents' connections, but read and answer nothing on them, old or new."""


class CloseSecond(Switch):
    """A second connection of an agent closes the first. The cleanup of the first then closes the second as well."""

    probability: float = Field(1.0, ge=0, le=1)
    seconds: float = Field(0.05, ge=0)
    """How long after the second has connected."""


class Faults(Switch):
    """All switches; `None` is off. They may be set at any time, and act from the next message or request on."""

    model_config = ConfigDict(validate_assignment=True)

    delay: Delay | None = None
    drop: Drop | None = None
    duplicate: Duplicate | None = None
    pack: Pack | None = None
    cut: Cut | None = None
    refuse: Refuse | None = None
    blackhole: Blackhole | None = None
    close_second: CloseSecond | None = None

    def clear(self) -> None:
        for name in type(self).model_fields:
            setattr(self, name, None)

    def expire(self) -> None:
        """Switch off what has lasted for its time."""
        if self.refuse and self.refuse.over():
            self.refuse = None
        if self.blackhole and self.blackhole.over():
            self.blackhole = None

    def deliveries(self, direction: str, kind: str, dice: random.Random) -> Iterator[float]:
        """The delays in seconds after which this envelope arrives: none if it is dropped, two if it is duplicated."""
        if self.drop and self.drop.acts_on(direction, kind, dice):
            return
        delay = self.delay.seconds if self.delay and self.delay.acts_on(direction, kind, dice) else 0.0
        yield delay
        if self.duplicate and self.duplicate.acts_on(direction, kind, dice):
            yield delay

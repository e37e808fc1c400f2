"""What the pages show in these tests: runs that succeeded, were undone, are parked, wait, are long, or mean harm."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import BaseModel

from stageflow_durable import ConcurrencyLimit, Pipeline, RetryPolicy, Sensitive, StageOutput, TransientError
from stageflow_durable.testing import FakeClock

HOSTILE = "</script><img src=x onerror=window.hurt=1>\u202egnp\x1b[31m"


class Order(BaseModel):
    order_id: str
    cents: int = 4200
    iban: Annotated[str, Sensitive] = "DE89 3704 0044"


class Shop:
    """Its stages take time by the clock that they are given."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.broken = True
        """Whether the bank has a bug, for orders of 13 cents."""

    def took(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def reserve(self, ctx: Any) -> dict[str, Any]:
        self.took(0.08)
        return {"reservation": f"R-{ctx.input.order_id}", "shelf": "A4"}

    def check(self, _ctx: Any) -> dict[str, Any]:
        self.took(0.03)
        return {"score": 0.02}

    def charge(self, ctx: Any) -> Any:
        self.took(0.15)
        if ctx.input.cents > 90_000 and ctx.attempt < 3:
            logging.getLogger("shop").warning("charging %s\x1b[31m", f"https://shop:secret@bank/{ctx.attempt}")
            raise TransientError(f"503 from https://shop:secret@bank.example/v1/charges, request {ctx.attempt * 1709}")
        if ctx.input.cents > 90_000:
            return StageOutput.reject("card declined: insufficient funds")
        if ctx.input.cents == 13 and self.broken:
            raise KeyError("currency")
        return {"payment": f"P-{ctx.input.order_id}", "password": "hunter2"}

    def ship(self, _ctx: Any) -> dict[str, Any]:
        self.took(0.1)
        return {"tracking": "TR-1"}

    def undo(self, _ctx: Any) -> None:
        self.took(0.06)

    @property
    def pipelines(self) -> list[Pipeline[Any, Any]]:
        checkout = (
            Pipeline("checkout", input_type=Order)
            .stage("validate", lambda _ctx: self.took(0.01))
            .stage("reserve", self.reserve, after="validate", compensate=self.undo)
            .stage("fraud-check", self.check, after="validate")
            .stage(
                "charge",
                self.charge,
                after=("reserve", "fraud-check"),
                compensate=self.undo,
                retry=RetryPolicy(max_attempts=4, base_delay=2.0),
                limits=[ConcurrencyLimit("bank", 4)],
            )
            .stage("ship", self.ship, after="charge")
            .stage("mail", lambda _ctx: None, after="ship")
        )
        refund = (
            Pipeline("refund")
            .stage("look-up", lambda _ctx: self.took(0.02))
            .approve("release", of=lambda _ctx: {"cents": 4200, "to": "ann"}, separation=False)
            .wait_for("word")
            .stage("pay", lambda _ctx: "paid")
        )
        harm = Pipeline("harm").stage("speak", self.harm).stage("fail", self.threaten)
        return [checkout, refund, harm, self.wide("wide", 2000), self.wide("wider", 2050)]

    @staticmethod
    def harm(_ctx: Any) -> dict[str, Any]:
        return {HOSTILE: HOSTILE, "long": "x" * 1_000_000}

    @staticmethod
    def threaten(_ctx: Any) -> Any:
        return StageOutput.fail(HOSTILE)

    @staticmethod
    def wide(name: str, count: int) -> Pipeline[Any, Any]:
        made: Pipeline[Any, Any] = Pipeline(name)
        for number in range(count):
            made = made.stage(f"s{number:04}", lambda _ctx: {"n": 1})
        return made

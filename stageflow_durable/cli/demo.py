"""``stageflow demo``: the product in a minute."""

from __future__ import annotations

import click


@click.command(short_help="The product in a minute: killed workers, balanced books.")
@click.option(
    "--orders", type=click.IntRange(1, 300), default=300, show_default="all 300", metavar="N", help="How many orders."
)
@click.option(
    "--kills",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    metavar="N",
    help="How many processes are killed on the way.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Which faults and kills; the same seed is the same plan.",
)
@click.pass_context
def demo(ctx: click.Context, orders: int, kills: int, seed: int) -> None:
    """Orders against flaky services, workers killed on the way, both ledgers reconciled with the runs at the end.

    Everything runs on this machine in a directory of its own. Exits 1 when the books differ by anything.
    """
    from stageflow_durable.demo.run import run_demo

    ctx.exit(run_demo(orders=orders, kills=kills, seed=seed))

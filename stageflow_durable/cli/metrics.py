"""``stageflow metrics``: what Prometheus scrapes, where no Flower runs."""

from __future__ import annotations

from typing import Any

import click

from stageflow_durable.cli.failures import Failure
from stageflow_durable.cli.output import say
from stageflow_durable.cli.session import Session, app_option


@click.command(short_help="Serve /metrics for Prometheus.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens; it has no sign-in.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="0: any that is free.")
@app_option
@click.pass_context
def metrics(ctx: click.Context, address: str, port: int) -> None:
    """Serve /metrics until Ctrl-C, from the database alone.

    Flower serves the same at its own /metrics. Scrape one of the two: each counts all runs.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise Failure("prometheus-client is not installed: pip install 'stageflow_durable[metrics]'") from None
    from stageflow_durable.metrics.collector import StageflowCollector

    operations: Any = Session.of(ctx).operations()  # with a store, of an application as of a database alone
    registry = CollectorRegistry()
    registry.register(StageflowCollector(operations.store))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise Failure(f"cannot listen at {address}:{port}: {error.strerror or error}") from None
    say(f"http://{address}:{server.server_port}/metrics; Ctrl-C ends it")
    try:
        thread.join()
    finally:
        server.shutdown()

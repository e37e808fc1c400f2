"""Runs in Django's transactions, on both databases: Django has one configuration a process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.services.process import Processes


@pytest.mark.process
def test_a_run_is_there_if_and_only_if_djangos_transaction_commits(
    migrated_database_url: str, tmp_path: Path, processes: Processes
) -> None:
    script = [sys.executable, "-m", "tests.integration.apps.in_django", migrated_database_url, f"{tmp_path}/other.db"]
    process = processes.start("django", script, cwd=ROOT)
    assert process.wait(60) == 0, processes.log("django")
    assert "all of it" in processes.log("django")

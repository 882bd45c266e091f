"""Runs a client's checks in its environment: ``python -m clients.inside MODULE PLACE.json REPORT.json``."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from clients.kinds import Check, Client, Outcome, Place


def outcome(check: Check, place: Place) -> Outcome:
    """Run a check; whatever it raises is the reason why it failed."""
    try:
        check.run(place)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return Outcome(check.what, "failed", f"{type(error).__name__}: {error}")
    return Outcome(check.what, "ok")


def main() -> None:
    """Run all checks of the module that is named, and write their outcomes after each."""
    module, given, written = sys.argv[1:]
    client: Client = importlib.import_module(module).CLIENT
    place = Place(**json.loads(Path(given).read_text(encoding="utf-8")))
    found = []
    for check in client.checks:
        found.append(asdict(outcome(check, place)))
        report = {"version": version(client.package), "outcomes": found}
        Path(written).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()

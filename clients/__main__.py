"""Run all clients and write ``docs/compatibility.md``: ``python -m clients``; ``python -m clients NAME ...`` only prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients import (
    hub_inference,
    llama_index_rerank,
    openai_client,
    openrlhf_rollout,
    rewardbench_command,
    trl_trainers,
    vllm_requests,
)
from clients.environment import CACHE, UnavailableError, environment, run
from clients.kinds import Client, Outcome, Place, Report, empty_folder
from clients.server import served
from clients.table import FILE, markdown
from clients.texts import HEADS, place

MODULES = (openrlhf_rollout, vllm_requests, openai_client, hub_inference, llama_index_rerank, trl_trainers, rewardbench_command)
CLIENTS = {module.__name__.partition(".")[2]: module.CLIENT for module in MODULES}


def report(name: str, client: Client, where: Place) -> Report:
    """Make a client's environment and run its checks in it."""
    try:
        python = environment(name, client)
    except UnavailableError as error:
        skipped = tuple(Outcome(one.what, "skipped", str(error)) for one in client.checks)
        return Report(client.name, client.package, "", skipped, client.note)
    folder = empty_folder(CACHE / "runs", name)
    work = empty_folder(folder, "work")
    given, written, log = folder / "place.json", folder / "report.json", folder / "log.txt"
    given.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(where, folder=str(work)))), encoding="utf-8")
    variables = {"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    if not client.serves:  # else huggingface_hub would not send a request to this machine either
        variables["HF_HUB_OFFLINE"] = "1"
    command = [str(python), "-m", "clients.inside", f"clients.{name}", str(given), str(written)]
    code = run(command, log, client.limit_s, {**variables, "HF_HOME": str(CACHE / "hf")})
    found: dict[str, Any] = {"version": "", "outcomes": []}
    if written.is_file():
        found = json.loads(written.read_text(encoding="utf-8"))
    outcomes = [Outcome(**one) for one in found["outcomes"]]
    reason = f"took longer than {client.limit_s:g} seconds" if code is None else f"exited with {code}"
    outcomes += [Outcome(one.what, "failed", reason) for one in client.checks[len(outcomes) :]]
    return Report(client.name, client.package, found["version"], tuple(outcomes), client.note)


def reports(names: Sequence[str]) -> list[Report]:
    """Run these clients against one server, and on one exported head."""
    os.environ["SPARSERM_STORE"] = "off"
    exported, found = CACHE / "exported", []
    with served(HEADS, CACHE / "server.txt") as url:
        where = place(url, CACHE, exported)  # has the backbone, which an export does not download
        if any(CLIENTS[name].exports for name in names):
            from sparserm.integrations.hf import export_classifier

            shutil.rmtree(exported, ignore_errors=True)
            export_classifier(HEADS[0], exported)
        for name in names:
            print(f"{name} ...", flush=True)
            found.append(report(name, CLIENTS[name], where))
            for one in found[-1].outcomes:
                print(f"  {one.result}: {one.what}{': ' if one.reason else ''}{one.reason}", flush=True)
    return found


def main() -> int:
    """Run the clients. Returns 1 if a check failed, so that `make clients` fails."""
    parser = argparse.ArgumentParser(prog="python -m clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLIENTS)}; all of them by default")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(CLIENTS)):
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(CLIENTS)}")
    CACHE.mkdir(exist_ok=True)
    found = reports(names or list(CLIENTS))
    if not names:
        FILE.write_text(markdown(found), encoding="utf-8")
        print(f"wrote {Path(FILE).name}")
    return int(any(one.result == "failed" for client in found for one in client.outcomes))


if __name__ == "__main__":
    sys.exit(main())

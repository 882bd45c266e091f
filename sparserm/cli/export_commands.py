"""The command ``export``: heads in formats of other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparserm.cli.common import AsJson, HeadArgument, app, print_facts, printed_json
from sparserm.cli.outputs import HEAD, Folder, Force, Output, out_option
from sparserm.types import SparseRMError

FORMATS = ("classifier", "head", "steering")


@app.command()
def export(
    head: HeadArgument,
    out: Annotated[Path, out_option(help="Folder to write to.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="classifier: a transformers model with one label. head: the head alone. steering: its directions."
        ),
    ] = "classifier",
    push_to_hub: Annotated[str | None, typer.Option(help="Repository USER/NAME on the Hugging Face Hub to upload to.")] = None,
    private: Annotated[bool, typer.Option(help="Create the repository as private; it is public by default.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a head as a transformers classifier, as a head alone, or as steering directions."""
    from sparserm.heads.saved import find_head

    if form not in FORMATS:
        raise SparseRMError(f"--format is {form!r}; expected one of {', '.join(FORMATS)}")
    folder = find_head(head)
    from sparserm.integrations import hf
    from sparserm.support.progress import terminal_progress

    kinds = {
        "classifier": Folder("an exported classifier", hf.CLASSIFIER_FILES, "classifier.py"),
        "steering": Folder("exported directions", hf.STEERING_FILES, "steering.safetensors"),
        "head": HEAD,
    }
    Output(out, {"the head that is exported": folder}, force, kinds[form]).check()
    if form == "classifier":
        with terminal_progress() as progress:
            hf.export_classifier(head, out, progress)
    else:
        {"head": hf.export_head, "steering": hf.export_steering}[form](head, out)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    result = {"out": str(out), "format": form, "files": files}
    if push_to_hub:
        result["address"] = hf.push_to_hub(out, push_to_hub, private=private)
    if not printed_json(as_json, result):
        print_facts(f"{head} as {form}", result)

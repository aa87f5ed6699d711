"""`csaq draft`: a model and a text → a head that drafts for it, in a GGUF beside its files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from csaq_cli.extra import extra_installed
from csaq_cli.shell_completion import complete_file

if TYPE_CHECKING:
    from csaq_export.draft.make import Made

EPILOG = """\b
Examples:
  csaq draft ./my-model --calib my.txt                 writes my-model-draft.gguf
  csaq draft ./my-model --work-dir work --steps 3000   goes on where it was stopped
  csaq run my-model-Q4_K_M.gguf -p "Once"              finds my-model-draft.gguf beside it
"""
FOLDER: "click.Path" = click.Path(path_type=Path, file_okay=False)


@click.command(epilog=EPILOG)
@click.argument("model", shell_complete=complete_file)
@click.option(
    "--calib",
    shell_complete=complete_file,
    help="Text like what the model will write: a text or .jsonl file, or a dataset.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: MODEL-draft.gguf.")
@click.option(
    "--steps", type=click.IntRange(1), default=2000, show_default=True, help="Training steps."
)
@click.option(
    "--batch", type=click.IntRange(1), default=4, show_default=True, help="Windows per step."
)
@click.option(
    "--nsamples",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    help="Windows; half of --calib, the others the model writes.",
)
@click.option(
    "--seqlen", type=click.IntRange(8), default=256, show_default=True, help="Tokens per window."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--work-dir", type=FOLDER, help="Keep what is done here, to resume.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def draft(
    model: str,
    calib: str | None,
    out: Path | None,
    steps: int,
    batch: int,
    nsamples: int,
    seqlen: int,
    seed: int,
    device: str,
    work_dir: Path | None,
    revision: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Train a head that drafts tokens for MODEL (a folder or a hub name).

    The head learns from the model itself what it would say next. csaq run uses it with every
    GGUF of the model, whatever its type: replies stay the same and come sooner.
    """  # fmt: skip
    with extra_installed("draft"):
        from csaq_export.calibrated import local_folder
        from csaq_export.draft.make import Drafting, make_head
        from csaq_export.pipeline import Conversion
        from csaq_export.ranks import ranks_folder
        from csaq_export.workdir import WorkDir

    from csaq_cli.progress import show_stages
    from csaq_runtime.speculate.head_keys import SUFFIX

    path = out or Path(Path(model).resolve().name + SUFFIX)
    folder = local_folder(Conversion(model, path, "F16", revision))
    wanted = Drafting(folder, path, calib, nsamples, seqlen, steps, batch, seed, device, force)
    with ranks_folder(work_dir) as work, show_stages(quiet) as report:
        made = make_head(wanted, WorkDir(work), report)
    print(f"{path}  {made.n_bytes:,} bytes, {_described(made)}")


def _described(made: "Made") -> str:
    shares = ", ".join(f"{share:.0%}" for share in made.agreement)
    return f"{made.n_ids:,} tokens; right 1, 2, 3 tokens ahead: {shares} of the time"

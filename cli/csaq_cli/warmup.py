"""`csaq warmup`: compiles every kernel for this processor into the cache."""

import sys
import time

import click

EPILOG = """\b
Examples:
  csaq warmup        after an installation or an update
  csaq warmup -q     in the recipe of a container image
"""


@click.command(epilog=EPILOG)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no figures.")
def warmup(quiet: bool) -> None:
    """Compile all kernels for this processor now, so that no first run has to.

    Deletes what other versions of csaq left in the cache.
    """
    from csaq_runtime.kernels.compile import cache_folder, delete_outdated
    from csaq_runtime.warmup import all_modules, compile_modules, missing_modules

    started = time.perf_counter()
    n_deleted, missing = delete_outdated(), missing_modules(all_modules())
    compile_modules(missing, None if quiet else _show)
    if not quiet:
        seconds = time.perf_counter() - started
        click.echo(
            f"{cache_folder()}: {len(missing)} compiled, {n_deleted} deleted, {seconds:.1f} s"
        )


def _show(n_done: int, n_module: int) -> None:
    print(f"compiled {n_done} of {n_module}", file=sys.stderr, flush=True)

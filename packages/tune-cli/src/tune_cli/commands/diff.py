"""`tune diff`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tune_cli.output import print_json


def diff(
    a: Path,
    b: Path,
    /,
    *,
    json: bool = False,
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"], metavar="N")] = None,
) -> int:
    """Compare two checkpoints, of the same kind or not.

    Ends with 0 if they are equal, with 1 if not, and with 2 where it cannot tell.

    Args:
        a: A checkpoint or an adapter: a folder or a file.
        b: Another.
        json: Print one JSON object.
        jobs: Tensors worked on at a time; by default one for each core.
    """
    from tune_checkpoint import diff as compare
    from tune_checkpoint.arguments import check_arguments
    from tune_checkpoint.progress import ProgressLine
    from tune_checkpoint.text import difference_lines

    check_arguments(jobs=jobs)
    with ProgressLine("comparing") as progress:
        found = compare(a, b, jobs=jobs, progress=progress)
    print_json(found) if json else print("\n".join(difference_lines(found)))
    return 0 if found.identical else 1

"""huggingface_hub without what it prints by itself: bars, warnings, addresses with signatures in them."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet_hub() -> Generator[None]:
    """Keep huggingface_hub from the terminal until the block ends; what fails is raised all the same."""
    from huggingface_hub.utils import disable_progress_bars, logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with disable_progress_bars():
                yield
    finally:
        logging.set_verbosity(before)

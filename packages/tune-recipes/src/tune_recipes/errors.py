"""The one kind of error that is told to the user without a traceback."""


class UserError(ValueError):
    """Something that the user can mend.

    The message says what is wrong, where, why, and what to do next, in the terms of what the user typed.
    The shell and the recipes print it as it stands and exit with status 2.
    """


class TrainingFailed(RuntimeError):
    """Training came to nothing, through nobody's mistake that could be seen before.

    The message says what happened and what to try; it is printed as it stands, and the exit status is 1.
    """

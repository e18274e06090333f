"""What the user can mend."""


class LaunchError(ValueError):
    """A launch that was asked for and cannot be; the message says why, and what to type instead."""

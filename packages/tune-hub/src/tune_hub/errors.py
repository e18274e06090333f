"""What can go wrong with the Hub, each with a message that says what, where, why and what to do next."""

from typing import ClassVar


class HubError(Exception):
    """The base of every error that this package raises on purpose. No message holds a token."""

    exit_status: ClassVar[int] = 2
    """How a command ends that meets it: 2 where the input was wrong, 1 where network or machine failed."""


class RepositoryNotFoundError(HubError):
    """There is no such repository, revision or file; or it is private and the token does not show it."""


class AccessError(HubError):
    """The Hub wants a login, another token, or terms accepted on the model's page."""


class RefusedError(HubError):
    """What was asked for would lose or leak: overwrite a file, publish a secret, leave the folder."""


class OfflineError(HubError):
    """`HF_HUB_OFFLINE` forbids the network, and what is here does not suffice."""


class TransferError(HubError):
    """The network or the Hub failed, again and again. The same call goes on where it stopped."""

    exit_status = 1


class DamagedError(HubError):
    """What arrived is not what the Hub says it is, twice."""

    exit_status = 1


class DiskError(HubError):
    """The system refused to read or write: disk full, permission denied."""

    exit_status = 1

"""Models on the Hugging Face Hub: downloaded whole and checked, uploaded with a card, by short names."""

from typing import TYPE_CHECKING

from tune_hub.aliases import ALIASES, resolve_alias

if TYPE_CHECKING:
    from tune_hub._download import DownloadResult, Events, download
    from tune_hub._upload import UploadResult, upload
    from tune_hub.card import CardFacts, model_card
    from tune_hub.download_plan import DownloadPlan, plan_download
    from tune_hub.errors import HubError
    from tune_hub.folder import read_record
    from tune_hub.secrets import Secret, find_secrets, redacted
    from tune_hub.upload_plan import UploadPlan, plan_upload

__all__ = [
    "ALIASES",
    "CardFacts",
    "DownloadPlan",
    "DownloadResult",
    "Events",
    "HubError",
    "Secret",
    "UploadPlan",
    "UploadResult",
    "download",
    "find_secrets",
    "model_card",
    "plan_download",
    "plan_upload",
    "read_record",
    "redacted",
    "resolve_alias",
    "upload",
]

_MODULE_OF = {
    "CardFacts": "card",
    "DownloadPlan": "download_plan",
    "DownloadResult": "_download",
    "Events": "_download",
    "HubError": "errors",
    "Secret": "secrets",
    "UploadPlan": "upload_plan",
    "UploadResult": "_upload",
    "download": "_download",
    "find_secrets": "secrets",
    "model_card": "card",
    "plan_download": "download_plan",
    "plan_upload": "upload_plan",
    "read_record": "folder",
    "redacted": "secrets",
    "upload": "_upload",
}
"""Where each name is; imported when it is asked for."""


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

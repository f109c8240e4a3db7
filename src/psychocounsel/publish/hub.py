"""Pushing a finished folder to the hub: asked for by the recipe, private, with a token from the environment only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from psychocounsel.errors import UserError

TOKEN = "HF_TOKEN"
OURS = ["manifest.json", "started.json", "*.part"]
REFUSED = {
    401: f"the hub does not accept {TOKEN}; make a new token with write access",
    403: f"{TOKEN} may not write there; give the token write access to this owner",
    404: "no such owner on the hub, or the token may not see it",
}


def check_hub(repository: str) -> str:
    """The token, when a push could begin at all. Raises UserError for a malformed name, no token, and offline mode."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"publish.hub = '{repository}': write it as OWNER/NAME")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            f"publish.hub = '{repository}': HF_HUB_OFFLINE forbids the hub; unset it, or set publish.hub = \"\""
        )
    token = os.environ.get(TOKEN, "")
    if not token:
        raise UserError(f"publish.hub = '{repository}': {TOKEN} is not set; export it (it is never written anywhere)")
    return token


def push(folder: Path, repository: str) -> str:
    """Upload the folder as one commit and give the address. A new repository is private; an old one stays as it is.

    Parquet files of an earlier push that are not in the folder are removed by the same commit. Raises UserError; then
    nothing was changed on the hub, because a commit is complete or absent.
    """
    token = check_hub(repository)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=OURS,
            delete_patterns=["*.parquet"],
            commit_message="Publish the data set",
        )
    except Exception as error:  # the library raises a dozen kinds for network, rights and limits
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = REFUSED.get(status or 0) or (
            f"the hub answered {status}" if status else f"no connection ({type(error).__name__})"
        )
        raise UserError(
            f"publish.hub = '{repository}': {why}. The set lies complete in {folder}; the same command tries again"
        ) from error
    return f"{api.endpoint}/datasets/{repository}"

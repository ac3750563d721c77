"""What is private in Ray, and what it says only in English, from version 2.40 on."""

import re
from typing import Any

from evomerge.compat import need
from evomerge.errors import SearchError, one_line


def not_importable(error: Exception) -> SearchError | None:
    """Return in a sentence on which machine evomerge cannot be imported; None: it can be."""
    text = str(error)
    if "failed to import on the worker" not in text:
        return None
    address = re.search(r"\bip=([^,)\s]+)", text)
    reason = re.search(r"(?:ModuleNotFoundError|ImportError): ([^\n]+)", text)
    return SearchError(
        f"On {f'the machine {address[1]}' if address else 'a machine'} of the cluster evomerge "
        f"cannot be imported ({reason[1].rstrip('.') if reason else 'no reason is known'}); all "
        "machines need the same Python environment."
    )


def reason_of(error: Exception) -> str:
    """Return why an actor died, in Ray's words, without its advice."""
    text = " ".join(str(error).split())
    _, _, detail = text.partition("Worker exit detail: ")
    return one_line((detail or text).partition(" Some common causes")[0])


def is_of_machine(error: Exception) -> bool:
    """Return whether an actor died with its machine."""
    return "its node has died" in str(error)


def silence() -> None:
    """Keep Ray from printing on standard output, for example of each process that ends."""
    import ray

    worker: Any = need("ray", ray, "_private").worker
    need("ray", worker, "_worker_logs_enabled")
    worker._worker_logs_enabled = False


def address_of(address: str) -> str | None:
    """Return HOST:PORT of a cluster, which `auto` may name; None if none runs on this machine."""
    from ray._private import services

    host: str | None = need("ray", services, "canonicalize_bootstrap_address")(address)
    return host

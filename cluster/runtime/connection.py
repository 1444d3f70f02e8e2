"""Connecting to a Ray cluster that is there already, with one line for each reason why that cannot be."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray._private.utils import compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of a compiled module
from ray.exceptions import AuthenticationError, RpcError

from cluster.runtime.session import SAFE_PATH, SESSION, TRAIN_ENVIRONMENT, own_path
from distlth.errors import RunError

ANSWER_SECONDS = 10.0

SEND_IT = (
    "run the command on one of its nodes, or send it there: ray job submit -- distlth run JOB.yaml --ray auto"
)


def connect(given: str, namespace: str) -> None:
    """Connect to the Ray at `cluster.ray` as a driver, in a namespace of its own.

    Raises:
        RunError: one line that says why it cannot be, and what to do.
    """
    address = _address(given)
    _check_answers(address)
    found = _metadata(address)
    here = compute_version_info()  # type: ignore[no-untyped-call]
    if why := version_refusal(found, *here):
        raise RunError(f"cluster.ray: {address} {why}")
    if not find_node_ids():  # type: ignore[no-untyped-call]
        raise RunError(f"cluster.ray: this machine is no node of the Ray cluster at {address}; {SEND_IT}")
    environment = {**SAFE_PATH, **TRAIN_ENVIRONMENT, SESSION: namespace}
    os.environ.update({SESSION: namespace})
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
            job_config=own_path(),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        # Ray has looked for a node of this cluster here for a minute.
        is_elsewhere = "No node info found" in str(error)
        why = f"this machine is no node of it; {SEND_IT}" if is_elsewhere else " ".join(str(error).split())
        raise RunError(f"cluster.ray: cannot connect to the Ray cluster at {address}: {why}") from None


def version_refusal(cluster: Mapping[str, str], ray_version: str, python: str) -> str:
    """Return why a cluster does not fit a driver of these versions; empty where it does.

    Ray must be the same, Python up to its minor version.
    """
    theirs, minor = cluster["python_version"], python.split(".")[:2]
    if cluster["ray_version"] == ray_version and theirs.split(".")[:2] == minor:
        return ""
    return (
        f"runs Ray {cluster['ray_version']} on Python {theirs}, this process has Ray {ray_version} on Python "
        f"{python}; use one image, or one environment, on all nodes"
    )


def _address(given: str) -> str:
    """Return HOST:PORT; `auto` is what RAY_ADDRESS names, or the Ray that runs on this machine."""
    named = os.environ.get("RAY_ADDRESS", "")
    if given == "auto" and "://" in named:
        raise RunError(f"cluster.ray: RAY_ADDRESS is {named}, for clients outside of the cluster; {SEND_IT}")
    found = None
    with suppress(ConnectionError, ValueError):
        found = canonicalize_bootstrap_address(given, None)
    if found is None:
        raise RunError(
            "cluster.ray: auto finds no Ray cluster on this machine; run the command on a node of one, "
            "or give its address, such as 10.0.0.1:6379"
        )
    return str(found)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cluster.ray: {address} does not answer ({error}); expected the address that `ray start --head` "
            "prints, of a cluster that runs"
        ) from None


def _metadata(address: str) -> dict[str, str]:
    """Return what a cluster tells of itself to those who have its token."""
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        metadata: dict[str, str] = get_cluster_metadata(GcsClient(address=address))
        return metadata
    except AuthenticationError:
        raise RunError(
            f"cluster.ray: the Ray cluster at {address} does not accept this user's token, or there is none; "
            "expected RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, as on its nodes"
        ) from None
    except (RpcError, TypeError):
        raise RunError(
            f"cluster.ray: {address} is not the head of a Ray cluster; expected the address that "
            "`ray start --head` prints (port 6379, not that of the dashboard or of clients)"
        ) from None

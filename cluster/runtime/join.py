"""Ray's own command, with forked workers: python -m cluster.runtime.join DEVICE FOLDER ARGUMENTS."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.runtime.services import fork_workers


def main() -> None:
    """Run `ray ARGUMENTS` on a worker node with a device, `cpu` or `cuda`; FOLDER is for the fork server."""
    device, folder = sys.argv[1:3]
    del sys.argv[1:3]
    fork_workers(Path(folder), device)
    from ray.scripts.scripts import main as ray

    ray()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()

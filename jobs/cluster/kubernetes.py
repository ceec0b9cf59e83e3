"""What a job does otherwise in a pod of Kubernetes, where nobody asks for its next start: it ends so as to get one.

The training operator starts a pod again whose exit code says that it may help: 128 to 255 (`restartPolicy:
ExitCode`). A code below is final. So 143, as of a process that SIGTERM ended, stands for "interrupted; go on from
the last checkpoint", and 2 for a mistake that the next start would meet again.
"""

import os

AGAIN = 143  # 128 + SIGTERM


def inside() -> bool:
    """Whether this process is in a pod: the kubelet tells every container where the API server is."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def exit_code(code: int) -> int:
    """The exit code of a launcher in a pod for one of its own: success and mistakes stay, all else is again."""
    return code if not inside() or code in (0, 2) else AGAIN

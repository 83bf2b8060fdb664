"""The command line for a process that `lowrise compare` starts: `python -m lowrise.child_process run ...`.

Its stdin is a pipe whose other end the parent holds. However the parent ends, SIGKILL included, the kernel closes that
end; then this process stops in order, as on SIGTERM, and leaves no half folder.
"""

from __future__ import annotations

import os
import signal
import threading

from lowrise import cli


def _stop_with_the_parent() -> None:
    os.read(0, 1)  # nothing is ever written: it returns at the end of file
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    cli.main()

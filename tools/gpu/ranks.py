"""ranks.py N COMMAND...: N ranks of a command, as torchrun starts them on one node; the worst exit code. One that fails ends all."""

import os
import socket
import subprocess
import sys
import time


def main():
    world, command = sys.argv[1], sys.argv[2:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(int(world))]
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() not in (None, 0) for rank in ranks):
            # Their own watch may still have a word to say.
            time.sleep(10)
            for rank in ranks:
                rank.kill()
        time.sleep(0.05)
    sys.exit(max(abs(rank.returncode) for rank in ranks))


main()

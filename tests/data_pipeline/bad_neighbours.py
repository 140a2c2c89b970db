"""Work that goes wrong in every way, for processes of their own."""

import os
import signal
import time

from imanim.errors import InputError


class Unloadable(str):
    """A task that cannot be sent anywhere."""

    def __reduce__(self):
        return os.path.join, ("a", 3)


def work(task, beat):
    """Does what the task's name says."""
    kind = task.split("-")[0]
    beat()
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        time.sleep(600)
    if kind == "busy":
        while True:
            beat()
    if kind == "hoard":
        held = []
        while True:
            beat()  # it grows, and is not stalled however slow the machine is
            held.append(bytearray(b"x" * (40 << 20)))
            time.sleep(0.01)
    if kind == "gulp":
        return len(bytearray(64 << 30))
    if kind == "refuse":
        raise InputError("the disk is full; free some space")
    return os.getpid()

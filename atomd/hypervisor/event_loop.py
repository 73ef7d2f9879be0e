"""libvirt's event loop: one thread of a process, whoever listens. Without it neither events nor keepalive run."""

import threading

import libvirt

# Without this, libvirt writes every error on stderr, those that we expect too.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


class _EventLoop:
    """libvirt's event loop, in one thread for as long as anybody needs it. It sleeps until something happens; a timer
    that never fires by itself wakes it to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._timer: int | None = None
        self._stopping = False

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._thread is not None:
                return
            if self._timer is None:  # once a process, before any connection
                libvirt.virEventRegisterDefaultImpl()
                self._timer = libvirt.virEventAddTimeout(-1, self._wake, None)
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None:
                return
            self._stopping = True
            libvirt.virEventUpdateTimeout(self._timer, 0)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping:
            libvirt.virEventRunDefaultImpl()

    def _wake(self, timer: int, _opaque: object) -> None:
        libvirt.virEventUpdateTimeout(timer, -1)


EVENT_LOOP = _EventLoop()

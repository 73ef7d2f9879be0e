"""An NFSv4 client without a kernel, by libnfs: `python -m tests.fakes.nfs_client PORT PATH write NAME TEXT`.

    read NAME          what is in the file
    write NAME TEXT    replaces it
    stamp NAME         writes block after block, a line for each
Ends with 1 and the error of the protocol when the server refuses.
"""

import ctypes
import os
import sys

BLOCK = 512  # libnfs 4 encodes no large writes
BLOCKS = 64


class Nfs:
    def __init__(self, port: int, path: str) -> None:
        self.lib = ctypes.CDLL("libnfs.so.13")
        self.lib.nfs_init_context.restype = ctypes.c_void_p
        self.lib.nfs_get_error.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p(self.lib.nfs_init_context())
        url = f"nfs://127.0.0.1{path}/?version=4&nfsport={port}&autoreconnect=0".encode()
        self.lib.nfs_parse_url_dir.restype = ctypes.POINTER(ctypes.c_char_p * 3)
        parsed = self.lib.nfs_parse_url_dir(self.context, url).contents
        self.check(self.lib.nfs_mount(self.context, parsed[0], parsed[1]))

    def check(self, code: int) -> int:
        if code < 0:
            sys.exit(f"nfs: {self.lib.nfs_get_error(self.context).decode()}")
        return code

    def open(self, name: str, *, create: bool) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        flags = os.O_WRONLY | os.O_CREAT if create else os.O_RDONLY
        self.check(self.lib.nfs_open2(self.context, name.encode(), flags, 0o644, ctypes.byref(handle)))
        return handle

    def write(self, handle: ctypes.c_void_p, offset: int, data: bytes) -> None:
        to, size = ctypes.c_uint64(offset), ctypes.c_uint64(len(data))
        self.check(self.lib.nfs_pwrite(self.context, handle, to, size, data))

    def read(self, handle: ctypes.c_void_p) -> bytes:
        buffer = ctypes.create_string_buffer(BLOCK)
        size = self.check(self.lib.nfs_pread(self.context, handle, ctypes.c_uint64(0), ctypes.c_uint64(BLOCK), buffer))
        return buffer.raw[:size]


def main(port: str, path: str, what: str, name: str, text: str = "") -> None:
    nfs = Nfs(int(port), path)
    handle = nfs.open(name, create=what != "read")
    match what:
        case "read":
            sys.stdout.buffer.write(nfs.read(handle))
        case "write":
            nfs.write(handle, 0, text.encode())
            nfs.check(nfs.lib.nfs_close(nfs.context, handle))
        case "stamp":
            number = 0
            while True:
                nfs.write(handle, number % BLOCKS * BLOCK, bytes([number % 255 + 1]) * BLOCK)
                number += 1
                print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Volumes are made and changed here: created, imported, cloned, resized, converted, removed, seeded.

Every function blocks, and belongs in a worker thread. What takes long calls a `Progress` at least ten times a second;
an exception that it raises ends the work, kills what was started and leaves nothing half-made. So a caller on trio
passes one that calls `trio.from_thread.check_cancelled()`.
A no is `Unusable` with one sentence for a person.
"""

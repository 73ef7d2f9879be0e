"""Leases on the volumes of a pool that several servers see: sanlock's, held by the process that serves the volume."""

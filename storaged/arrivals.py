"""Volumes that are made on their users' word: empty, from an image, as a copy, as a seed. Each is a job."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from matcher.net.caller import Caller
from matcher.wire.messages import Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import CloneVolume, ImportVolume, NewSeed, NewVolume
from specs.ids import UserId, Vid, VmId, dashed
from storaged.images import making
from storaged.images.copying import Progress, Stream
from storaged.images.fetch import Fetching, fetched
from storaged.images.importing import Incoming, import_image, source_max_bytes
from storaged.images.sandbox import Sandbox
from storaged.images.seed import Seed, make_seed
from storaged.jobs import Job
from storaged.metadata import Metadata
from storaged.promises import Promised
from storaged.shelf import no
from storaged.uploads import Uploads
from storaged.working import Working, order


class Arrivals:
    """One host's. `sandbox` is asked anew for each job, as its user may have been made since."""

    def __init__(
        self, working: Working, *, sandbox: Callable[[], Sandbox] = Sandbox.of, fetching: Fetching | None = None
    ) -> None:
        self._working, self._sandbox, self._fetching = working, sandbox, fetching
        self._shelf, self._promises = working.shelf, working.promises
        self._uploads = Uploads()

    async def create(self, new: NewVolume, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._create(new, caller)

    async def import_(self, asked: ImportVolume, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._import(asked, caller)

    async def upload(self, vid: Vid, pieces: AsyncIterator[bytes], caller: Caller) -> Done | Refused:
        """The image that an import waits for."""
        upload = self._uploads.waiting(vid, UserId(caller.id))
        if upload is None:
            return no("not-found", vid, "take its image", "no import of yours waits for it here", "")
        if await self._uploads.feed(upload, pieces):
            return Done("taken in")
        return no("not-wanted", vid, "take its image", "the import has ended; its own answer says why", "")

    async def clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._clone(vid, clone, caller)

    async def seed(self, seed: NewSeed, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._seed(seed, caller)

    # ---- in turn: nothing is awaited from the first look to the start of the job

    def _create(self, new: NewVolume, caller: Caller) -> Job | Refused:
        vid = Vid(new.vid)
        wanted = order(caller, vid, "made", new, changes=(vid,))
        if (again := self._working.same(wanted)) is not None:
            return again
        promised = self._promises.taken(new, caller)
        if isinstance(promised, Refused):
            return promised

        def work(progress: Progress) -> None:
            making.create(
                self._sandbox(),
                promised.pool,
                vid,
                _metadata(new, caller),
                most_mib=promised.size_mib,
                pool_id=promised.pool_id,
                progress=progress,
            )

        return self._working.start(wanted, caller, folder_of(promised.pool, vid), work, promised=promised)

    def _import(self, asked: ImportVolume, caller: Caller) -> Job | Refused:
        vid = Vid(asked.new.vid)
        wanted = order(caller, vid, "imported", asked, changes=(vid,))
        if (again := self._working.same(wanted)) is not None:
            return again
        promised = self._promises.taken(asked.new, caller)
        if isinstance(promised, Refused):
            return promised
        take = partial(self._take, asked, _metadata(asked.new, caller), promised)
        start = partial(self._working.start, wanted, caller, folder_of(promised.pool, vid), promised=promised)
        if asked.url:
            return start(partial(self._fetch, asked.url, promised, take))
        upload = self._uploads.open(vid, wanted.user_id)
        return start(partial(take, upload, asked.size_bytes), ended=partial(self._uploads.close, vid))

    def _fetch(
        self, url: str, promised: Promised, take: Callable[[Stream, int, Progress], None], progress: Progress
    ) -> None:
        progress("connect", 0, 0)
        with fetched(url, most_bytes=source_max_bytes(promised.size_mib), how=self._fetching) as found:
            take(found.stream, found.size_bytes, progress)

    def _take(
        self,
        asked: ImportVolume,
        metadata: Metadata,
        promised: Promised,
        stream: Stream,
        size_bytes: int,
        progress: Progress,
    ) -> None:
        incoming = Incoming(stream, asked.stated, asked.sha256 or None, size_bytes)
        import_image(
            self._sandbox(),
            promised.pool,
            Vid(asked.new.vid),
            metadata,
            incoming,
            most_mib=promised.size_mib,
            pool_id=promised.pool_id,
            progress=progress,
        )

    def _clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Job | Refused:
        new = Vid(clone.vid)
        wanted = order(caller, new, "copied", clone, changes=(new,), reads=(vid,))
        if (again := self._working.same(wanted)) is not None:
            return again
        volume = self._shelf.seen(vid, caller)
        if isinstance(volume, Refused):
            return self._working.making(vid, caller) or volume
        if (refusal := self._working.is_leased(volume, wanted)) is not None:
            return refusal
        if self._shelf.knows(new):
            return no("exists", new, "make it", "there is a volume with this UUID", "electros volume inspect")
        private = clone.private or volume.private  # what only its owner may see does not get out by a copy
        metadata = Metadata(
            volume.size_mib, clone.name, bootable=volume.bootable, private=private, owner=UserId(caller.id)
        )
        most_mib = self._promises.most_mib(caller, volume.pool)

        def work(progress: Progress) -> None:
            making.clone(volume.pool, volume, new, metadata, most_mib=most_mib, progress=progress)

        promised = Promised(wanted.user_id, volume.pool, volume.size_mib)
        return self._working.start(wanted, caller, folder_of(volume.pool, new), work, promised=promised)

    def _seed(self, asked: NewSeed, caller: Caller) -> Job | Refused:
        vid = Vid(asked.new.vid)
        wanted = order(caller, vid, "made", asked, changes=(vid,))
        if (again := self._working.same(wanted)) is not None:
            return again
        promised = self._promises.taken(asked.new, caller)
        if isinstance(promised, Refused):
            return promised
        seed = Seed(asked.user_data, str(vid), asked.meta_data, asked.network_config)
        metadata = replace(_metadata(asked.new, caller), goes_with=VmId(asked.goes_with) if asked.goes_with else None)

        def work(_: Progress) -> None:
            make_seed(promised.pool, vid, metadata, seed, most_mib=promised.size_mib, pool_id=promised.pool_id)

        return self._working.start(wanted, caller, folder_of(promised.pool, vid), work, promised=promised)


def folder_of(pool: str, vid: Vid) -> str:
    """Where a volume that is made here lies."""
    return f"{pool}/{dashed(vid)}.elimg"


def _metadata(new: NewVolume, caller: Caller) -> Metadata:
    return Metadata(
        size_mib=new.size_mib,
        name=new.name,
        bootable=new.bootable,
        private=new.private,
        shareable=new.shareable,
        readonly=new.readonly,
        format=new.format,
        owner=UserId(caller.id),
    )

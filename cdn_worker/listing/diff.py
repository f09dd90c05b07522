"""What a copy has to do: the source's listing beside the sink's, key by key, in several ranges at once, in flat memory.

Each range walks its pages in order; one that proves large is cut in two where keys really are, while there are lanes to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol

from cdn_worker.domain import archive
from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Stored, alike, doubtful
from cdn_worker.domain.keys import KeyMapping, name_fault, same_path
from cdn_worker.domain.listing_page import Filter, Listed, Page
from cdn_worker.domain.ordering import Unordered, refuse_unordered
from cdn_worker.domain.overwrite import REPLACES_IT, Replace
from cdn_worker.domain.ranges import KeyRange, middle, steps_up
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.commands import Command, Ended, Outcome, Resume, Task, Tries, Wait, patient
from cdn_worker.ports import Bucket, Sink, SinkObject, Source

OBJECT_BYTES_MAX = 5 << 40
"""Of one object (Cloud Storage, quotas)."""
CUT_AFTER_PAGES = 3
HALVINGS = 6
HOLD_S = 0.02
EMPTY_PAGES_MAX = 1000
"""One after the other: a listing that goes on so is not believed to end."""

Planned = Task | KeyVerdict
Beside = tuple[Listed, Stored | None]
"""A listed object, and what has its name at the sink."""
Walk = Generator[Command, Outcome, None]


class Plays(Protocol):
    """Runs walks: `player.Player`."""

    def play(self, steps: Walk, done: Callable[[None], None]) -> None: ...


class ListingFailed(Exception):
    """A listing cannot be read: which, and what the service said; `code` is constant."""

    def __init__(self, told: str, code: str) -> None:
        super().__init__(told)
        self.code = code


@dataclass(slots=True, kw_only=True)
class Ground:
    """What is listed, and what for.

    prefix      of the source's keys
    resume      how far a large object (key, ETag, size) got before
    replace     what may be done to an object that differs at the sink
    unreadable  why an object cannot be had of its archive; None when it can
    """

    source: Source
    bucket: Bucket
    sink: Sink
    mapping: KeyMapping
    prefix: str = ""
    filter: Filter = field(default_factory=Filter)
    replace: Replace = Replace.NEVER
    unreadable: Callable[[Listed], str | None] = archive.unreadable
    resume: Callable[[str, str, int], Resume | None] = lambda _key, _etag, _size: None
    backoff_s: float = 0.5
    keys_max: int = 1000


def judged(listed: Listed, stored: Stored | None, ground: Ground) -> Planned:
    """What is to be done about one key: a task, or a verdict at once."""
    fault = _fault(listed, ground.mapping)
    if fault is not None:
        return _verdict(listed, Verdict.UNMAPPABLE, *fault)
    verified = None if stored is None else alike(stored, size=listed.size, etag=listed.etag)
    if stored is not None and verified is not None and ground.replace is not Replace.ALWAYS:
        return KeyVerdict(
            key=listed.key,
            size=listed.size,
            etag=listed.etag,
            verdict=Verdict.SKIPPED,
            generation=stored.generation,
            crc32c=stored.crc32c,
            verified=verified,
            tries=0,
        )
    cold = ground.unreadable(listed)
    if cold is not None:
        return _verdict(listed, Verdict.UNMAPPABLE, archive.CODE, cold)
    if stored is None:
        return Task(listed.key, listed.size, listed.etag, listed.modified, 0, ground.resume(listed.key, listed.etag, listed.size))
    if ground.replace.allows(stored, ground.source.uri(listed.key)):
        return Task(listed.key, listed.size, listed.etag, listed.modified, stored.generation)
    told = f"another object is there: {stored.size:,} bytes, generation {stored.generation}, {_came_from(stored)}"
    return _verdict(listed, Verdict.FAILED, "exists", told)


def _came_from(stored: Stored) -> str:
    """Whose object it is, as far as anybody recorded that; and what replaces it."""
    if stored.source_uri:
        return f"a copy of {stored.source_uri}; {REPLACES_IT}"
    whose = "brought by a transfer that did not record its source" if stored.source_etag else "which no transfer brought"
    return f"{whose}; {REPLACES_IT}"


def _fault(listed: Listed, mapping: KeyMapping) -> tuple[str, str] | None:
    if listed.size > OBJECT_BYTES_MAX:
        return "too_large", f"{listed.size:,} bytes; {OBJECT_BYTES_MAX:,} (5 TiB) are the most"
    name = name_fault(mapping.sink_name(listed.key))
    return None if name is None else ("name", f"as a name at the sink, {name}")


def _verdict(listed: Listed, verdict: Verdict, error: str, details: str) -> KeyVerdict:
    return KeyVerdict(key=listed.key, size=listed.size, etag=listed.etag, verdict=verdict, error=error, details=details, tries=0)


class Planner:
    """Lists and compares. `deliver` gets each page's share of work; `full` says that no more is wanted for now.

    lanes       ranges that are walked at once, at most
    pages_max   after so many pages of a range it is left, and what remains stands in `rest`; 0: walk on to the end
    """

    def __init__(
        self,
        player: Plays,
        ground: Ground,
        *,
        deliver: Callable[[list[Planned]], None],
        full: Callable[[], bool],
        lanes: int = 8,
        pages_max: int = 0,
    ) -> None:
        self._player, self._ground = player, ground
        self._deliver, self._full, self._lanes, self._pages_max = deliver, full, lanes, pages_max
        self._walking = 0
        self._stopped = False
        self.rest: list[KeyRange] = []
        self.error: ListingFailed | None = None
        self.listed = 0
        self.bytes_listed = 0
        self.pages = 0
        self.ranges = 0

    @property
    def idle(self) -> bool:
        return not self._walking

    def begin(self, keys: KeyRange | None = None) -> None:
        """List a range; all of the prefix when none is given."""
        self._walk(keys or KeyRange(), CUT_AFTER_PAGES)

    def begin_keys(self, keys: Sequence[str]) -> None:
        """Look at just these keys; one that is not there any more is not listed."""
        self._walking += 1
        self._player.play(self._guarded(self._each(keys)), self._over)

    def stop(self) -> None:
        """List no more; the walks end with the page that they are at."""
        self._stopped = True

    def _walk(self, keys: KeyRange, patience: int) -> None:
        self._walking += 1
        self.ranges += 1
        self._player.play(self._guarded(self._walked(keys, patience)), self._over)

    def _over(self, _nothing: None) -> None:
        self._walking -= 1

    def _guarded(self, walk: Walk) -> Walk:
        try:
            yield from walk
        except Ended as end:
            self.error = self.error or ListingFailed(end.details, end.code)
            self._stopped = True
        except ValueError as error:
            self.error = self.error or ListingFailed(str(error), "listing")
            self._stopped = True

    def _each(self, keys: Sequence[str]) -> Walk:
        ground = self._ground
        for key in keys:
            page = yield from _listed(ground, prefix=key, keys_max=1)
            entries = [one for one in page.entries if one.key == key]
            for listed in ground.filter.wanted(entries):
                stat = partial(ground.sink.stat, ground.mapping.sink_name(key))
                found = yield from _patient(stat, ground, ground.sink.refusal, absent=True)
                stored = ground.sink.stored(found) if found.status == 200 else None
                self.listed += 1
                self.bytes_listed += listed.size
                self._deliver([judged(listed, stored, ground)])

    def _walked(self, keys: KeyRange, patience: int) -> Walk:
        ground = self._ground
        there = _SinkCursor(ground)
        token, pages, last = "", 0, keys.after
        while not self._stopped:
            page = yield from _listed(ground, prefix=ground.prefix, after=last, token=token, keys_max=ground.keys_max)
            entries = page.entries
            ended = page.token is None
            until = keys.until
            if until is not None and entries and entries[-1].key >= until:
                entries = [one for one in entries if one.key <= until]
                ended = True
            self.pages += 1
            pages += 1
            yield from self._compared(entries, keys, there)
            if ended:
                return
            assert entries, "a page before the last one has keys"
            token, last = page.token or "", entries[-1].key
            if pages == self._pages_max:
                self.rest += yield from self._in_two(KeyRange(last, keys.until))
                return
            while self._full() and not self._stopped:
                yield Wait(HOLD_S, exact=True)
            if pages >= patience and self._walking < self._lanes:
                # A cut costs some requests, so the next one must be earned by twice as many pages.
                pages, patience = 0, 2 * patience
                keys = yield from self._cut(KeyRange(last, keys.until), patience)
                if keys.until is not None and keys.until <= last:
                    return

    def _compared(self, entries: list[Listed], keys: KeyRange, there: _SinkCursor) -> Walk:
        ground = self._ground
        wanted = list(ground.filter.wanted(entries))
        if not wanted:
            return
        yield from there.up_to(wanted, keys)
        shared = {one.key: one.why for one in same_path([one.key for one in wanted], ground.mapping)}
        beside = list(there.beside(wanted))
        if any(stored is not None and doubtful(stored, size=one.size, etag=one.etag) for one, stored in beside):
            beside = yield from self._looked_into(beside)
        planned: list[Planned] = []
        for listed, stored in beside:
            if listed.key in shared:
                planned.append(_verdict(listed, Verdict.UNMAPPABLE, "same_path", shared[listed.key]))
            else:
                planned.append(judged(listed, stored, ground))
            self.bytes_listed += listed.size
        self.listed += len(wanted)
        self._deliver(planned)

    def _looked_into(self, beside: Sequence[Beside]) -> Generator[Command, Outcome, list[Beside]]:
        """The same, with the hashes of those of which the sink's listing tells too little: each is asked for, many at once."""
        found = list(beside)
        running = [0]
        trouble: list[Ended] = []

        def done(_nothing: None) -> None:
            running[0] -= 1

        def look(index: int, name: str, listed: Listed) -> Walk:
            ground = self._ground
            try:
                answer = yield from _patient(partial(ground.sink.stat, name), ground, ground.sink.refusal, absent=True)
            except Ended as end:
                trouble.append(end)
                return
            found[index] = (listed, ground.sink.stored(answer) if answer.status == 200 else None)

        for index, (listed, stored) in enumerate(beside):
            if stored is not None and doubtful(stored, size=listed.size, etag=listed.etag):
                running[0] += 1
                self._player.play(look(index, self._ground.mapping.sink_name(listed.key), listed), done)
        while running[0]:
            yield Wait(HOLD_S, exact=True)
        if trouble:
            raise trouble[0]
        return found

    def _cut(self, rest: KeyRange, patience: int) -> Generator[Command, Outcome, KeyRange]:
        """Give the upper part of what is left to another walk, if there are keys; returns what stays with this one."""
        lower, *upper = yield from self._in_two(rest)
        for one in upper:
            self._walk(one, patience)
        return lower

    def _in_two(self, rest: KeyRange) -> Generator[Command, Outcome, list[KeyRange]]:
        """A range as two where keys really are, or as one, without what has no keys at its end."""
        prefix = self._ground.prefix
        steps = steps_up(rest.after, rest.until, prefix)
        first, end, cut = 0, len(steps), ""
        while first < end:
            half = (first + end) // 2
            if (yield from self._has_keys(KeyRange(steps[half], rest.until))):
                end, cut = half, steps[half]
            else:
                rest, first = KeyRange(rest.after, steps[half]), half + 1
        if not cut:
            return [rest]
        # Keys lie above the cut; perhaps they do also above one that is nearer to the middle of them.
        for _ in range(HALVINGS):
            at = middle(cut, rest.until, prefix)
            if at is None:
                break
            if (yield from self._has_keys(KeyRange(at, rest.until))):
                cut = at
                break
            rest = KeyRange(rest.after, at)
        return list(rest.cut(cut))

    def _has_keys(self, keys: KeyRange) -> Generator[Command, Outcome, bool]:
        ground = self._ground
        found = (yield from _listed(ground, prefix=ground.prefix, after=keys.after, keys_max=1)).entries
        return bool(found) and found[0].key in keys


class _SinkCursor:
    """The sink's listing, as far as one range needs it: what is beside the keys of a page, and what comes after them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._objects: list[SinkObject] = []
        self._span: tuple[str, str] | None = None
        self._token = ""
        self._ended = False
        self._last, self._empty = "", 0

    def up_to(self, wanted: list[Listed], keys: KeyRange) -> Walk:
        """Read pages until the name of the last key is passed, or there are no more. Of others' objects none is kept."""
        ground, mapping = self._ground, self._ground.mapping
        names = {mapping.sink_name(one.key) for one in wanted}
        last = mapping.sink_name(wanted[-1].key)
        if self._span is None:
            # The service wants the same span with every token, also when this range has been cut meanwhile.
            inside = keys.until is not None and keys.until.startswith(mapping.source_root)
            # Up to and with that name: the end is exclusive. What else is between is somebody's, and passed over.
            self._span = (mapping.sink_name(wanted[0].key), f"{mapping.sink_name(keys.until or '')}!" if inside else "")
        start, end = self._span
        while not self._ended and (not self._objects or self._objects[-1].name <= last):
            under = mapping.sink_name(ground.prefix)
            request = partial(ground.sink.page, prefix=under, start=start, end=end, token=self._token)
            page = ground.sink.page_of((yield from _patient(request, ground, ground.sink.refusal)))
            names_there = [one.name for one in page.objects]
            refuse_unordered(names_there, after=self._last, prefix=under, where=ground.sink.where)
            if names_there:
                self._last, self._empty = names_there[-1], 0
            elif page.token is not None:
                self._empty += 1
                _refuse_endless(self._empty, ground.sink.where)
            beyond = page.objects[-1:] if page.objects and page.objects[-1].name <= last else []
            self._objects = [one for one in self._objects if one.name in names]
            self._objects += [one for one in page.objects if one.name > last or one.name in names]
            if beyond and beyond[0].name not in names:
                self._objects += beyond  # how far the listing is
            self._token, self._ended = page.token or "", page.token is None

    def beside(self, wanted: Iterable[Listed]) -> Iterator[Beside]:
        """Each listed object with the one that has its name at the sink."""
        objects, index = self._objects, 0
        mapping = self._ground.mapping
        for listed in wanted:
            name = mapping.sink_name(listed.key)
            while index < len(objects) and objects[index].name < name:
                index += 1
            there = index < len(objects) and objects[index].name == name
            yield listed, objects[index].stored if there else None
        del objects[:index]


def _listed(ground: Ground, *, prefix: str, after: str = "", token: str = "", keys_max: int) -> Generator[Command, Outcome, Page]:
    """The next page that has keys, or the last one. Raises Ended, and ValueError for a listing that cannot be walked.

    A page without keys may have a token, and then more follows (S3, directory buckets; other servers do so, too).
    """
    where = ground.bucket.where
    for empty in count(1):
        request = partial(ground.bucket.page, prefix=prefix, after=after, token=token, keys_max=keys_max)
        page = ground.bucket.page_of((yield from _patient(request, ground, ground.source.explained)))
        refuse_unordered([one.key for one in page.entries], after=after, prefix=prefix, where=where)
        if page.entries or page.token is None:
            return page
        if page.token == token:
            raise Unordered(f"{where} says for ever that more follows, with the same token: nothing of this listing is believed")
        _refuse_endless(empty, where)
        token = page.token
    raise AssertionError("unreachable")


def _refuse_endless(empty: int, where: str) -> None:
    if empty >= EMPTY_PAGES_MAX:
        raise Unordered(f"{where} gave {empty:,} pages without a key, one after the other, and says that more follows")


def _patient(
    request: Callable[[], Request], ground: Ground, explained: Callable[[Answer], str], *, absent: bool = False
) -> Generator[Command, Outcome, Answer]:
    """One page, however often it must be asked for. absent: 404 is an answer too. Raises Ended with what the service said."""
    return patient(request, Tries(ground.backoff_s), explained, of="listing", also=(404,) if absent else ())

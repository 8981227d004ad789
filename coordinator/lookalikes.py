"""Contents of one segment that look like the segment list of another content.

One may be the list: if somebody had stored those bytes before, the content's upload found them
there, and did not mark them. Or somebody has made it up, and names a content that is another's. So
nothing in it is believed before the bytes of its segments hash to the content's id. That may be
much to read, and is done when all else has come back.
"""

import asyncio
import logging

from blake3 import blake3

from common.errors import Corrupt, SixfoldError
from common.ids import SegmentId
from common.segment_list import SegmentList
from coordinator.metadata import Metadata, StoredSegment
from coordinator.read_path import ReadPath

log = logging.getLogger(__name__)


async def restore_if_true(metadata: Metadata, reads: ReadPath, lookalike: StoredSegment) -> bool:
    """Whether a content has come back that was not there."""
    try:
        listed = SegmentList.unpack(await reads.read_segment(lookalike))
        if await metadata.find_content(listed.content) is not None:
            return False
        if not await _is_true(metadata, reads, listed):
            log.warning("%s lists segments that are not content %s", lookalike.id, listed.content)
            return False
    except Corrupt:
        return False  # a content like any other
    except SixfoldError as error:
        log.error("%s may be a segment list: %s", lookalike.id, error)
        return False
    return await metadata.restore_content(listed, lookalike.id)


async def _is_true(metadata: Metadata, reads: ReadPath, listed: SegmentList) -> bool:
    segments = dict[SegmentId, StoredSegment]()
    for id_, size_bytes in listed.segments:
        known = None if id_ in segments else await metadata.find_segment(id_)
        if known is not None:
            segments[id_] = known.stored
        if id_ not in segments or segments[id_].size_bytes != size_bytes:
            return False
    content_hash = blake3()
    for id_, _ in listed.segments:
        plain = await reads.read_segment(segments[id_])
        await asyncio.to_thread(content_hash.update, plain)
    return content_hash.digest() == listed.content

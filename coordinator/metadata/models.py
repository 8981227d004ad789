"""The tables, as the migrations (database.py) make them: TABLES first, others later.

Times are whole seconds since 1970 by the database's clock.
"""

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    CompositeKey,
    DatabaseProxy,
    IntegerField,
    Model,
    SmallIntegerField,
    TextField,
)

proxy = DatabaseProxy()


class Table(Model):
    class Meta:
        database = proxy
        legacy_table_names = False


class Cluster(Table):
    """One row. `sessions` is the epoch: it grows whenever a session begins or is renewed, and
    sessions are numbered by it. Since version 4 with a column deletes_stopped: why nothing may be
    deleted on nodes, a reason a line, empty if it may. Since version 5 with deletes_allowed_at,
    when an operator last ended that; and with the database's clock (see `clock`): clock_s is where
    it last ticked, clock_offset_s what it is ahead of the monotonic clock of clock_boot. Since
    version 11 with layouts_forgotten: how often rows of `layout` were deleted. Since version 12
    with doubted_epoch and doubted_until: see `sessions.doubt`. Since version 14 with rebuilt_epoch:
    what doubted_epoch was when a rebuild found all nodes."""

    id = IntegerField(primary_key=True)
    cluster_id = TextField()
    schema_version = IntegerField()
    sessions = IntegerField()
    created_at = BigIntegerField()


class Session(Table):
    """A running coordinator process. Its number is the upper half of the generations it makes."""

    number = IntegerField(primary_key=True)
    expires_at = BigIntegerField()


class Node(Table):
    """Since version 4 with a column wish: what the operator wants of it, a `Wish`. Since version 5
    with told_epoch: the highest epoch that it was told."""

    number = AutoField()
    node_id = TextField(unique=True)
    name = TextField()
    zone = TextField()


class Layout(Table):
    """An ordered tuple of node numbers, two bytes each, big-endian. Many segments may share one;
    since version 2 it is not unique."""

    id = AutoField()
    nodes = BlobField(unique=True)


class LayoutNode(Table):
    """Gone since version 2."""

    node = IntegerField()
    layout = IntegerField()

    class Meta:
        primary_key = CompositeKey("node", "layout")
        without_rowid = True


class Segment(Table):
    """Since version 4 with a column verified_at: when all its shards were last found good, 0 if
    they never were looked at since they were written."""

    id = BlobField(primary_key=True)
    size_bytes = BigIntegerField()
    stored_bytes = BigIntegerField()
    encoding = SmallIntegerField()
    k = SmallIntegerField()
    n = SmallIntegerField()
    generation = BigIntegerField()
    layout = IntegerField(index=True)
    checksums = BlobField()
    touched_at = BigIntegerField()


class Content(Table):
    """Since version 2 only contents of several segments: a content of one is its segment, and has
    a row only if another content has that segment too (see `marks`).
    `segment_list` names the segment that holds their list; since version 2 it has an index. Since
    version 13 also contents in bundles, with a column start_bytes: where in its one segment, which
    is the bundle, such a content begins; null for all others."""

    id = BlobField(primary_key=True)
    size_bytes = BigIntegerField()
    segment_count = IntegerField()
    segment_list = BlobField(null=True)
    created_at = BigIntegerField()


class ContentSegment(Table):
    """The segments of a content, in order."""

    content = BlobField()
    position = IntegerField()
    segment = BlobField(index=True)

    class Meta:
        primary_key = CompositeKey("content", "position")
        without_rowid = True


class Pin(Table):
    """An account keeps a content alive, and visible by its id. Since version 2 with a column
    created_at."""

    content = BlobField()
    account = IntegerField()

    class Meta:
        primary_key = CompositeKey("content", "account")
        without_rowid = True


class Outbox(Table):
    """Gone since version 4: `outbox_delete` replaces it. Keys of 41 bytes, packed."""

    id = AutoField()
    node = IntegerField()
    not_before = BigIntegerField(index=True)
    shard_keys = BlobField()


class RepairQueue(Table):
    """Segments that are short of good shards, or whose shards lie badly. Since version 4 with
    columns not_before and attempts: when to try (again), and how often that failed. Since version 8
    with bad: the mask of the shards that are known to be gone or rotten where they should be."""

    segment = BlobField(primary_key=True)
    generation = BigIntegerField()
    survivors = SmallIntegerField(index=True)
    reason = TextField()
    queued_at = BigIntegerField()


class OutboxDelete(Table):
    """Shards of one act of writing a segment, to delete on one node once `not_before` has passed;
    `indexes` are the shards', a byte each, `why` a `DeleteReason`. While there is such a row, no
    shard of these addresses may be put on that node: the delete may be on its way. Since version 10
    no number comes a second time, also not when its row is gone."""

    id = AutoField()
    node = IntegerField()
    not_before = BigIntegerField()
    segment = BlobField(index=True)
    generation = BigIntegerField()
    indexes = BlobField()
    why = SmallIntegerField()

    class Meta:
        indexes = ((("node", "not_before"), False),)


class DeletedPlace(Table):
    """Where shards of a living segment were deleted lately. The same delete may have been sent a
    second time and still be on its way: until `until` no layout may come to name the place."""

    id = AutoField()
    node = IntegerField()
    segment = BlobField(index=True)
    generation = BigIntegerField()
    indexes = BlobField()
    until = BigIntegerField(index=True)


class JobState(Table):
    """What a background job must remember: where it stands, what it has done. JSON."""

    name = TextField(primary_key=True)
    state = TextField()
    updated_at = BigIntegerField()


class Orphan(Table):
    """A shard that a node listed and nothing refers to, until it is quarantined or turns out to
    be referred to after all. `key` is its address, 41 bytes."""

    node = IntegerField()
    key = BlobField()
    seen_at = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("node", "key")
        without_rowid = True


class SetAside(Table):
    """Shards that were condemned as orphans by a database that may not have known them: a backup,
    or a new one, before a rebuild has found all nodes. Columns as of `outbox_delete`."""

    id = AutoField()
    node = IntegerField(index=True)
    segment = BlobField()
    generation = BigIntegerField()
    indexes = BlobField()


class CollectQueue(Table):
    """Contents that may have no pin any more: the collector looks at them, and at no others."""

    content = BlobField(primary_key=True)
    unpinned_at = BigIntegerField(index=True)


class RebundleQueue(Table):
    """Bundles of which most is not needed any more. The job looks from `not_before` on."""

    segment = BlobField(primary_key=True)
    not_before = BigIntegerField(index=True)


class NodeReport(Table):
    """The latest report of each node, as JSON, to whichever process it came. `version` grows with
    each; `instance` is that of the report."""

    node = IntegerField(primary_key=True)
    version = BigIntegerField()
    instance = TextField()
    report = TextField()
    reported_at = BigIntegerField(index=True)


class ReportNonce(Table):
    """Nonces of reports that were taken, for as long as their signatures would be accepted."""

    nonce = BlobField(primary_key=True)
    expires_at = BigIntegerField(index=True)

    class Meta:
        without_rowid = True


class JobLease(Table):
    """Which session does a background job. `epoch` is the cluster's as of when the job last
    changed hands, which makes that grow."""

    name = TextField(primary_key=True)
    session = IntegerField()
    epoch = BigIntegerField()
    expires_at = BigIntegerField()


TABLES = [
    Cluster,
    Session,
    Node,
    Layout,
    LayoutNode,
    Segment,
    Content,
    ContentSegment,
    Pin,
    Outbox,
    RepairQueue,
]

CARE_TABLES = [OutboxDelete, JobState, Orphan]  # what the jobs that care for the data need
SHARED_TABLES = [NodeReport, ReportNonce, JobLease]  # what processes tell each other

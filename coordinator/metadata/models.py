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
    """One row. `sessions` counts those there ever were."""

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
    """Since version 2 only contents of several segments: a content of one is its segment.
    `segment_list` names the segment that holds their list; since version 2 it has an index."""

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
    """Shards to delete on a node, once `not_before` has passed: keys of 41 bytes, packed."""

    id = AutoField()
    node = IntegerField()
    not_before = BigIntegerField(index=True)
    shard_keys = BlobField()


class RepairQueue(Table):
    """Segments that are short of good shards."""

    segment = BlobField(primary_key=True)
    generation = BigIntegerField()
    survivors = SmallIntegerField(index=True)
    reason = TextField()
    queued_at = BigIntegerField()


class CollectQueue(Table):
    """Contents that may have no pin any more: the collector looks at them, and at no others."""

    content = BlobField(primary_key=True)
    unpinned_at = BigIntegerField(index=True)


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
    """Which session does a background job. `epoch` grows whenever the job changes hands."""

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

SHARED_TABLES = [NodeReport, ReportNonce, JobLease]  # what processes tell each other

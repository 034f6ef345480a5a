"""The tables of the index, and the statements over them: SQL as text, nothing is executed here."""

from __future__ import annotations

APPLICATION_ID = 0x6C61646E
"""In the header of every index of lading (SQLite, PRAGMA application_id)."""

# Each step makes the format of its position from the one before; the first makes format 1 from nothing.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Rows have a rowid, by which they can be salvaged one by one.
        "CREATE TABLE reference(name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
        " validated REAL NOT NULL, checksum TEXT NOT NULL)",
        # Digest first: one index answers both whether and where a digest was seen.
        "CREATE TABLE seen(repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,"
        " validated REAL NOT NULL, checksum TEXT NOT NULL, UNIQUE(digest, repository))",
        "CREATE TABLE content(digest TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, data BLOB)",
        "CREATE TABLE link(parent TEXT NOT NULL, child TEXT NOT NULL, UNIQUE(parent, child))",
    ),
    (
        # The rowid grows with each note that is written, so that it tells the oldest.
        "CREATE TABLE note(kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, checksum TEXT NOT NULL,"
        " UNIQUE(kind, key))",
    ),
)

REFERENCE_BY_NAME = "SELECT digest, media_type, validated, checksum FROM reference WHERE name = ?"
SEEN_BY_DIGEST = "SELECT digest, media_type, validated, checksum FROM seen WHERE digest = ? AND repository = ?"
SEEN_CONTENT = (
    "SELECT seen.digest, seen.media_type, seen.validated, seen.checksum, content.size, content.data"
    " FROM seen LEFT JOIN content ON content.digest = seen.digest WHERE seen.digest = ? AND seen.repository = ?"
)
CONTENT = "SELECT size, data FROM content WHERE digest = ?"
REPOSITORIES = (
    "SELECT repository, digest, media_type, validated, checksum FROM seen"
    " WHERE digest = ? AND substr(repository, 1, ?) = ? ORDER BY repository"
)

# A page of everything: what comes after a rowid.
ALL_REFERENCES = (
    "SELECT rowid, name, digest, media_type, validated, checksum FROM reference WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
ALL_SEEN = (
    "SELECT rowid, repository, digest, media_type, validated, checksum FROM seen WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
ALL_CONTENT = "SELECT rowid, digest, size, data IS NULL FROM content WHERE rowid > ? ORDER BY rowid LIMIT ?"

NOTE_BY_KEY = "SELECT value, checksum FROM note WHERE kind = ? AND key = ?"

REFERENCES = "SELECT name, digest, media_type, validated, checksum FROM reference ORDER BY name"

# With what a reference stood for goes that it was seen, unless another reference of the repository stands for it.
FORGET_SEEN = (
    "DELETE FROM seen WHERE repository = :repository"
    " AND digest = coalesce(:digest, (SELECT digest FROM reference WHERE name = :name))"
    " AND NOT EXISTS (SELECT 1 FROM reference WHERE reference.digest = seen.digest AND name <> :name"
    " AND substr(name, 1, length(:repository) + 1) IN (:repository || ':', :repository || '@'))"
)
FORGET_REFERENCE = "DELETE FROM reference WHERE name = :name"
FORGET_NOTE = "DELETE FROM note WHERE kind = ? AND key = ?"

REQUIRED = (
    "SELECT content.size, content.data IS NULL FROM seen JOIN content ON content.digest = seen.digest"
    " WHERE seen.digest = ? AND seen.repository = ?"
)

LAST_USED = (
    "SELECT reference.validated, note.value, note.checksum FROM reference"
    " LEFT JOIN note ON note.kind = ? AND note.key = reference.name WHERE reference.name = ?"
)

# What a collection looks at, and what it removes.
EVERY_REFERENCE = "SELECT name, digest, media_type, validated, checksum FROM reference"
EVERY_NOTE = "SELECT key, value, checksum FROM note WHERE kind = ?"
EVERY_LINK = "SELECT parent, child FROM link"
EVERY_SIZE = "SELECT digest, size, data IS NULL FROM content"
MEDIA_TYPE = "SELECT media_type FROM seen WHERE digest = ? LIMIT 1"
IS_IN_FILE = "SELECT 1 FROM content WHERE digest = ? AND data IS NULL"
REMOVE_CONTENT = "DELETE FROM content WHERE digest = ?"
REMOVE_SEEN = "DELETE FROM seen WHERE digest = ?"
FORGET_USES = "DELETE FROM note WHERE kind = ? AND key NOT IN (SELECT name FROM reference)"
REMOVE_PLACE = "DELETE FROM seen WHERE repository = ? AND digest = ?"
REMOVE_LINKS = "DELETE FROM link WHERE parent = ?"

# What is written the longest time ago goes, so that as many are left as the limit says.
LIMIT_NOTES = (
    "DELETE FROM note WHERE kind = :kind AND rowid <="
    " (SELECT rowid FROM note WHERE kind = :kind ORDER BY rowid DESC LIMIT 1 OFFSET :limit)"
)

# What is already there in the same way isn't written again, what is there damaged is replaced.
INSERTS = (
    "INSERT INTO content(digest, size, data) VALUES (?, ?, ?) ON CONFLICT(digest) DO UPDATE"
    " SET size = excluded.size, data = excluded.data"
    " WHERE size IS NOT excluded.size OR data IS NOT excluded.data",
    "INSERT INTO seen(repository, digest, media_type, validated, checksum) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT(digest, repository) DO UPDATE"
    " SET media_type = excluded.media_type, validated = excluded.validated, checksum = excluded.checksum",
    "INSERT INTO link(parent, child) VALUES (?, ?) ON CONFLICT DO NOTHING",
    "INSERT INTO reference(name, digest, media_type, validated, checksum) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT(name) DO UPDATE SET digest = excluded.digest, media_type = excluded.media_type,"
    " validated = excluded.validated, checksum = excluded.checksum",
    # Under a new rowid.
    "INSERT OR REPLACE INTO note(kind, key, value, checksum) VALUES (?, ?, ?, ?)",
)

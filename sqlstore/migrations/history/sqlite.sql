-- One row a version that was applied. Running says where one stopped that is not applied as a whole.
CREATE TABLE sqlstore_migrations (
    source     text NOT NULL,
    version    integer NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at real NOT NULL,
    duration   real,
    running    text,
    PRIMARY KEY (source, version)
);

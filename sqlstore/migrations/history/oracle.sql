-- One row a version that was applied. Running says where one stopped that is not applied as a whole.
CREATE TABLE sqlstore_migrations (
    source     varchar2(255 byte) NOT NULL,
    version    number(18) NOT NULL,
    name       varchar2(255 byte) NOT NULL,
    checksum   varchar2(255 byte) NOT NULL,
    applied_at timestamp(6) NOT NULL,
    duration   number,
    running    varchar2(255 byte),
    PRIMARY KEY (source, version)
);

-- Whoever migrates holds this row, because DDL gives back what locks its own transaction has.
INSERT INTO sqlstore_migrations (source, version, name, checksum, applied_at)
VALUES ('sqlstore', 0, 'lock', '-', SYS_EXTRACT_UTC(SYSTIMESTAMP));

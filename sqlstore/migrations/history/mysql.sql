-- One row a version that was applied. Running says where one stopped that is not applied as a whole.
CREATE TABLE sqlstore_migrations (
    source     varchar(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    version    bigint NOT NULL,
    name       varchar(255) NOT NULL,
    checksum   varchar(255) NOT NULL,
    applied_at datetime(6) NOT NULL,
    duration   double,
    running    varchar(255),
    PRIMARY KEY (source, version)
) ENGINE = InnoDB;

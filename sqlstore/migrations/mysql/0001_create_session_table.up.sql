-- One row a key: sessions, cached responses, counters. Keys and principals are compared byte for byte.
-- One statement, because each commits by itself: the table is there with its indexes, or not at all.
CREATE TABLE litestar_session (
    namespace  varbinary(255) NOT NULL,
    session_id varbinary(255) NOT NULL,
    data       longblob NOT NULL,
    expires_at datetime(6),
    version    bigint NOT NULL,
    principal  varbinary(255),
    created_at datetime(6) NOT NULL,
    updated_at datetime(6) NOT NULL,
    PRIMARY KEY (namespace, session_id),
    INDEX litestar_session_expires_at (expires_at),
    INDEX litestar_session_principal (namespace, principal)
) ENGINE = InnoDB;

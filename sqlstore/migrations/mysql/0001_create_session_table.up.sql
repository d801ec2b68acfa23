-- One row a key: sessions, cached responses, counters. Keys and principals are compared byte for byte.
CREATE TABLE litestar_session (
    namespace  varbinary(255) NOT NULL,
    session_id varbinary(255) NOT NULL,
    data       longblob NOT NULL,
    expires_at datetime(6),
    version    bigint NOT NULL,
    principal  varbinary(255),
    created_at datetime(6) NOT NULL,
    updated_at datetime(6) NOT NULL,
    PRIMARY KEY (namespace, session_id)
) ENGINE = InnoDB;

CREATE INDEX litestar_session_expires_at ON litestar_session (expires_at);

CREATE INDEX litestar_session_principal ON litestar_session (namespace, principal);

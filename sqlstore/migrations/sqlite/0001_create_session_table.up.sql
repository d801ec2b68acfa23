-- One row a key: sessions, cached responses, counters. Keys and principals are compared byte for byte.
CREATE TABLE litestar_session (
    namespace  text NOT NULL,
    session_id text NOT NULL,
    expires_at real,
    version    integer NOT NULL,
    principal  text,
    created_at real NOT NULL,
    updated_at real NOT NULL,
    data       blob NOT NULL, -- last, because SQLite reads through a large value to get at what comes after it
    PRIMARY KEY (namespace, session_id)
);

CREATE INDEX litestar_session_expires_at ON litestar_session (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX litestar_session_principal ON litestar_session (namespace, principal) WHERE principal IS NOT NULL;

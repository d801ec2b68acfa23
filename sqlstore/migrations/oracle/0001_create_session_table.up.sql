-- One row a key: sessions, cached responses, counters. Keys and principals are compared byte for byte.
CREATE TABLE litestar_session (
    namespace  varchar2(255 byte) NOT NULL,
    session_id varchar2(255 byte) NOT NULL,
    data       blob,
    expires_at timestamp(6),
    version    number(19) NOT NULL,
    principal  varchar2(255 byte),
    created_at timestamp(6) NOT NULL,
    updated_at timestamp(6) NOT NULL,
    PRIMARY KEY (namespace, session_id)
);

CREATE INDEX litestar_session_expires_at ON litestar_session (expires_at);

CREATE INDEX litestar_session_principal ON litestar_session (namespace, principal);

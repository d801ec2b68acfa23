-- Copies the live sessions of old_session, SQLSpec's table or Advanced Alchemy's, on Oracle.
-- Nothing is copied once there are sessions: one that has ended since would be back.
INSERT INTO litestar_session (namespace, session_id, data, expires_at, version, created_at, updated_at)
SELECT '/LITESTAR/sessions/', session_id, data, SYS_EXTRACT_UTC(expires_at), 1,
       SYS_EXTRACT_UTC(SYSTIMESTAMP), SYS_EXTRACT_UTC(SYSTIMESTAMP)
  FROM old_session
 WHERE (expires_at > SYSTIMESTAMP OR expires_at IS NULL)
   AND REGEXP_LIKE(session_id, '^[0-9a-f]+$') -- Litestar's own ids: no cache's keys, nor what a client has chosen
   AND NOT EXISTS (SELECT 1 FROM litestar_session WHERE namespace = '/LITESTAR/sessions/');

COMMIT;

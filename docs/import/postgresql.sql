-- Copies the live sessions of old_session, SQLSpec's table or Advanced Alchemy's, on PostgreSQL.
-- Nothing is copied once there are sessions: one that has ended since would be back.
INSERT INTO litestar_session (namespace, session_id, data, expires_at, version, created_at, updated_at)
SELECT '/LITESTAR/sessions/', session_id, data, expires_at, 1, now(), now()
  FROM old_session
 WHERE (expires_at > now() OR expires_at IS NULL)
   AND session_id ~ '^[0-9a-f]+$' -- Litestar's own ids: neither a cache's keys, nor what a client has chosen
   AND NOT EXISTS (SELECT 1 FROM litestar_session WHERE namespace = '/LITESTAR/sessions/');

-- Copies the live sessions of old_session, SQLSpec's table or Advanced Alchemy's, on MySQL and MariaDB.
-- Nothing is copied once there are sessions: one that has ended since would be back.
INSERT INTO litestar_session (namespace, session_id, data, expires_at, version, created_at, updated_at)
SELECT '/LITESTAR/sessions/', session_id, data, expires_at, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)
  FROM old_session
 WHERE (expires_at > UTC_TIMESTAMP(6) OR expires_at IS NULL)
   AND session_id REGEXP '^[0-9a-f]+$' -- Litestar's own ids: neither a cache's keys, nor what a client has chosen
   AND NOT EXISTS (SELECT 1 FROM litestar_session WHERE namespace = '/LITESTAR/sessions/');

-- Copies the live sessions of old_session, SQLSpec's table or Advanced Alchemy's, on SQLite.
-- Nothing is copied once there are sessions: one that has ended since would be back.
-- julianday() takes both what SQLSpec stores, which is the number of a day, and Advanced Alchemy's text, in UTC.
INSERT INTO litestar_session (namespace, session_id, data, expires_at, version, created_at, updated_at)
SELECT '/LITESTAR/sessions/', session_id, data, (julianday(expires_at) - 2440587.5) * 86400, 1,
       (julianday('now') - 2440587.5) * 86400, (julianday('now') - 2440587.5) * 86400
  FROM old_session
 WHERE (julianday(expires_at) > julianday('now') OR expires_at IS NULL)
   AND session_id NOT GLOB '*[^0-9a-f]*' -- Litestar's own ids: neither a cache's keys, nor what a client has chosen
   AND NOT EXISTS (SELECT 1 FROM litestar_session WHERE namespace = '/LITESTAR/sessions/');

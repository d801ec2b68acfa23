DROP TABLE litestar_session;

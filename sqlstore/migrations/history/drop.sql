DROP TABLE sqlstore_migrations;

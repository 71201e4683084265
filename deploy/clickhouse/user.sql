-- The server's user on a ClickHouse server. On a cluster say each with ON CLUSTER 'pilotlight'.
CREATE USER IF NOT EXISTS pilotlight IDENTIFIED BY 'CHANGE ME';
GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW ON pilotlight.* TO pilotlight;
GRANT SELECT, INSERT, ALTER TABLE, OPTIMIZE ON pilotlight.* TO pilotlight;
GRANT SELECT ON system.parts TO pilotlight;
GRANT SELECT ON system.tables TO pilotlight;
GRANT SELECT ON system.processes TO pilotlight;
-- To end its own inserts that are still running when a commit is undone.
GRANT KILL QUERY ON *.* TO pilotlight;
-- A cluster only.
GRANT CLUSTER, REMOTE ON *.* TO pilotlight;

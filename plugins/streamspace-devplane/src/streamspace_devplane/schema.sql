CREATE TABLE IF NOT EXISTS agents (
  agent_id TEXT PRIMARY KEY, id TEXT NOT NULL, platform TEXT NOT NULL, region TEXT,
  capacity TEXT NOT NULL DEFAULT '{}', metadata TEXT NOT NULL DEFAULT '{}',
  approval TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'offline', active_sessions INTEGER NOT NULL DEFAULT 0,
  registrations INTEGER NOT NULL DEFAULT 0, heartbeat_at REAL, created_at REAL NOT NULL, told_status TEXT
);
CREATE TABLE IF NOT EXISTS api_keys (hash TEXT PRIMARY KEY, agent_id TEXT, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
  session_id TEXT PRIMARY KEY, agent_id TEXT NOT NULL, user TEXT NOT NULL, template TEXT NOT NULL,
  state TEXT NOT NULL, url TEXT, pod_name TEXT, vnc_ready INTEGER NOT NULL DEFAULT 0, vnc_port INTEGER,
  platform_metadata TEXT NOT NULL DEFAULT '{}', statuses INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL, status_at REAL NOT NULL, screen TEXT NOT NULL DEFAULT 'vnc',
  last_activity REAL, streaming_protocol TEXT NOT NULL DEFAULT 'vnc', streaming_port INTEGER NOT NULL DEFAULT 5900
);
CREATE TABLE IF NOT EXISTS commands (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, command_id TEXT NOT NULL UNIQUE, agent_id TEXT NOT NULL, session_id TEXT,
  action TEXT NOT NULL, payload TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending', error TEXT, result TEXT,
  acks INTEGER NOT NULL DEFAULT 0, completes INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL, sent_at REAL, acked_at REAL, finished_at REAL
);
CREATE INDEX IF NOT EXISTS commands_pending ON commands (agent_id, state);
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, agent_id TEXT, direction TEXT NOT NULL,
  type TEXT NOT NULL, payload TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_in_state ON sessions (state, created_at);
CREATE INDEX IF NOT EXISTS commands_of_session ON commands (session_id);
-- Python writes what SQLite calls no JSON (NaN), and an index must not refuse it.
CREATE INDEX IF NOT EXISTS events_of_session
  ON events (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.sessionId') END) WHERE type != 'vnc_data';

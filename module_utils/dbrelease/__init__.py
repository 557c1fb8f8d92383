"""The engine: pure functions that plan and compare, and thin sessions that act (Postgres, containers, files, HTTP)."""

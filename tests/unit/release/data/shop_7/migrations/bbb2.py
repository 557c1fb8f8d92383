"""A revision."""

revision = "bbb2"

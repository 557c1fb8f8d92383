"""The reference application: drawings, their projects, and a worker that processes new drawings."""

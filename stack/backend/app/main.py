"""The API. `create_app` builds phase A or phase B of it from the same code."""

from __future__ import annotations

import logging

from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app import schemas
from app.routes import OpenSession, drawings_router, projects_router
from app.settings import Phase, app_phase

log = logging.getLogger(__name__)


def create_app(phase: Phase | None = None) -> FastAPI:
    phase = phase or app_phase()
    app = FastAPI(title="Drawing index", version="8.0" if phase == "A" else "8.1")
    app.include_router(projects_router())
    app.include_router(drawings_router(phase))

    @app.get("/health")
    def health(db: OpenSession) -> schemas.Health:
        """Healthy is: a request that needs the database can be served."""
        try:
            db.execute(text("SELECT 1"))
        except OperationalError as error:
            log.error("The database does not answer: %s", str(error.orig).strip())
            raise HTTPException(503, "The database does not answer.") from error
        return schemas.Health(status="ok", phase=phase)

    return app

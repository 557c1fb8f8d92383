"""The endpoints of projects and drawings."""

from __future__ import annotations

import logging
import uuid
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import schemas
from app.database import session
from app.models import Base, Drawing, Project, associations
from app.settings import Phase
from app.worker import process_drawing

log = logging.getLogger(__name__)

Row = TypeVar("Row", bound=Base)
OpenSession = Annotated[Session, Depends(session)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]


def find(db: Session, model: type[Row], row_id: uuid.UUID) -> Row:
    row: Row | None = db.get(model, row_id)
    if row is None:
        raise HTTPException(404, f"There is no {model.__name__.lower()} {row_id}.")
    return row


def commit(db: Session) -> None:
    """The only constraint that a validated request can break is a foreign key."""
    try:
        db.commit()
    except IntegrityError as error:
        raise HTTPException(409, "The drawing or project that the request names does not exist.") from error


def change(row: Base, patch: BaseModel) -> None:
    for field, value in patch.model_dump(exclude_unset=True).items():
        setattr(row, field, value)


def projects_router() -> APIRouter:
    router = APIRouter(prefix="/api/v1/projects", tags=["projects"])

    @router.get("", response_model=list[schemas.ProjectOut])
    def list_projects(db: OpenSession, limit: Limit = 100, offset: Offset = 0) -> list[Project]:
        return list(db.scalars(select(Project).order_by(Project.id).limit(limit).offset(offset)))

    @router.post("", response_model=schemas.ProjectOut, status_code=201)
    def create_project(db: OpenSession, body: schemas.ProjectIn) -> Project:
        project = Project(**body.model_dump())
        db.add(project)
        commit(db)
        return project

    @router.patch("/{project_id}", response_model=schemas.ProjectOut)
    def update_project(db: OpenSession, project_id: uuid.UUID, body: schemas.ProjectPatch) -> Project:
        project = find(db, Project, project_id)
        change(project, body)
        commit(db)
        db.refresh(project)
        return project

    @router.delete("/{project_id}", status_code=204)
    def delete_project(db: OpenSession, project_id: uuid.UUID) -> None:
        db.delete(find(db, Project, project_id))
        commit(db)

    return router


def associated_projects(db: Session, drawing_ids: list[uuid.UUID]) -> dict[uuid.UUID, list[schemas.ProjectSummary]]:
    """The projects of each drawing; none while the junction table is not there (phase B before its release)."""
    found: dict[uuid.UUID, list[schemas.ProjectSummary]] = {drawing_id: [] for drawing_id in drawing_ids}
    if db.scalar(select(func.to_regclass(associations.name))) is None:
        return found
    rows = db.execute(
        select(associations.c.drawing_id, Project)
        .join(Project, Project.id == associations.c.project_id)
        .where(associations.c.drawing_id.in_(drawing_ids))
        .order_by(Project.name, Project.id)
    )
    for drawing_id, project in rows:
        found[drawing_id].append(schemas.ProjectSummary.model_validate(project))
    return found


def drawings_router(phase: Phase) -> APIRouter:
    router = APIRouter(prefix="/api/v1/drawings", tags=["drawings"])
    drawing_out: type[schemas.DrawingOut] = schemas.DrawingOut if phase == "A" else schemas.DrawingOutPhaseB

    def present(db: Session, drawings: list[Drawing]) -> list[schemas.DrawingOut]:
        shown = [drawing_out.model_validate(drawing) for drawing in drawings]
        if phase == "B":
            projects = associated_projects(db, [drawing.id for drawing in shown])
            shown = [drawing.model_copy(update={"projects": projects[drawing.id]}) for drawing in shown]
        return shown

    @router.get("", response_model=list[drawing_out])  # type: ignore[valid-type]
    def list_drawings(db: OpenSession, limit: Limit = 100, offset: Offset = 0) -> list[schemas.DrawingOut]:
        drawings = db.scalars(select(Drawing).order_by(Drawing.id).limit(limit).offset(offset))
        return present(db, list(drawings))

    @router.get("/{drawing_id}", response_model=drawing_out)
    def read_drawing(db: OpenSession, drawing_id: uuid.UUID) -> schemas.DrawingOut:
        return present(db, [find(db, Drawing, drawing_id)])[0]

    @router.post("", response_model=drawing_out, status_code=201)
    def create_drawing(db: OpenSession, body: schemas.DrawingIn) -> schemas.DrawingOut:
        drawing = Drawing(**body.model_dump())
        db.add(drawing)
        commit(db)
        try:
            process_drawing.delay(str(drawing.id))
        except process_drawing.OperationalError:
            # The drawing is stored and stays `pending`: that is no failure of this request.
            log.exception("Drawing %s could not be queued for processing", drawing.id)
        return present(db, [drawing])[0]

    @router.patch("/{drawing_id}", response_model=drawing_out)
    def update_drawing(db: OpenSession, drawing_id: uuid.UUID, body: schemas.DrawingPatch) -> schemas.DrawingOut:
        drawing = find(db, Drawing, drawing_id)
        change(drawing, body)
        commit(db)
        db.refresh(drawing)
        return present(db, [drawing])[0]

    @router.delete("/{drawing_id}", status_code=204)
    def delete_drawing(db: OpenSession, drawing_id: uuid.UUID) -> None:
        db.delete(find(db, Drawing, drawing_id))
        commit(db)

    if phase == "B":

        @router.get("/{drawing_id}/projects", response_model=list[schemas.ProjectSummary])
        def list_drawing_projects(db: OpenSession, drawing_id: uuid.UUID) -> list[schemas.ProjectSummary]:
            return associated_projects(db, [find(db, Drawing, drawing_id).id])[drawing_id]

        @router.post("/{drawing_id}/projects", response_model=list[schemas.ProjectSummary], status_code=201)
        def add_drawing_project(
            db: OpenSession, drawing_id: uuid.UUID, body: schemas.AssociationIn
        ) -> list[schemas.ProjectSummary]:
            find(db, Drawing, drawing_id)
            find(db, Project, body.project_id)
            association = insert(associations).values(
                drawing_id=drawing_id, project_id=body.project_id, assigned_by="api"
            )
            db.execute(association.on_conflict_do_nothing())
            commit(db)
            return associated_projects(db, [drawing_id])[drawing_id]

    return router

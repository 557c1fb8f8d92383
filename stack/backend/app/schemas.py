"""What the API takes and returns."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pending", "processing", "completed", "failed"]


class ProjectIn(BaseModel):
    name: str = Field(min_length=1, max_length=255)
    code: str | None = Field(default=None, max_length=50)
    description: str | None = None


class ProjectPatch(BaseModel):
    name: str = Field(default="", min_length=1, max_length=255)
    code: str | None = Field(default=None, max_length=50)
    description: str | None = None


class ProjectSummary(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    name: str
    code: str | None


class ProjectOut(ProjectSummary):
    description: str | None
    created_at: datetime
    updated_at: datetime


class DrawingIn(BaseModel):
    title: str = Field(min_length=1, max_length=500)
    file_path: str = Field(min_length=1, max_length=1000)
    project_id: uuid.UUID | None = None


class DrawingPatch(BaseModel):
    """Only the fields that are given change; `project_id: null` clears it."""

    title: str = Field(default="", min_length=1, max_length=500)
    file_path: str = Field(default="", min_length=1, max_length=1000)
    processing_status: Status = "pending"
    project_id: uuid.UUID | None = None


class DrawingOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    title: str
    file_path: str
    processing_status: Status
    upload_date: datetime
    project_id: uuid.UUID | None
    project: ProjectSummary | None
    metadata: dict[str, Any] = Field(validation_alias="details")
    created_at: datetime
    updated_at: datetime


class DrawingOutPhaseB(DrawingOut):
    projects: list[ProjectSummary] = []


class AssociationIn(BaseModel):
    project_id: uuid.UUID


class Health(BaseModel):
    status: Literal["ok"]
    phase: Literal["A", "B"]

"""The tables as the application sees them; the migrations are their definition."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ForeignKey, MetaData, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    name: Mapped[str]
    code: Mapped[str | None]
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Drawing(Base):
    __tablename__ = "drawings"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    title: Mapped[str]
    file_path: Mapped[str]
    processing_status: Mapped[str] = mapped_column(server_default="pending")
    upload_date: Mapped[datetime] = mapped_column(server_default=func.now())
    project_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    # `metadata` is taken in a declarative class.
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default="{}")

    # passive_deletes: the database's ON DELETE SET NULL does it.
    project: Mapped[Project | None] = relationship(lazy="joined", passive_deletes=True)


# Phase B reads and writes this table; it is there only after the release, so it is no mapped class.
associations = Table(
    "drawing_project_associations",
    MetaData(),
    Column("drawing_id", UUID(as_uuid=True)),
    Column("project_id", UUID(as_uuid=True)),
    Column("assigned_by", Text),
)

"""JSON Schemas of our three kinds of file, so that editors complete and check them while they are written."""

import json
from typing import Any

from pydantic import BaseModel

from infra.model.cluster import ClusterFile
from infra.model.hardware import Profile
from infra.model.job import JobFile

COMMAND = "python -m infra schema"


def schemas() -> dict[str, str]:
    """The text of every file below schemas/."""
    return {
        "hardware.schema.json": _schema(Profile, "A machine type of Slipway: hardware/<name>.yaml"),
        "cluster.schema.json": _schema(ClusterFile, "A cluster of Slipway: clusters/<name>.yaml"),
        "job.schema.json": _schema(JobFile, "A job of Slipway: jobs/<name>.job.yaml"),
    }


def _schema(model: type[BaseModel], title: str) -> str:
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Generated from {model.__module__.replace('.', '/')}.py by: {COMMAND}",
        **model.model_json_schema(),
        "title": title,
    }
    return json.dumps(schema, indent=2) + "\n"

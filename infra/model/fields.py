"""Kinds of keys that machine types, clusters and job descriptions share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
SlurmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=32)]
# As directories have them: jane.doe. useradd and Slurm take them, systemd-sysusers does not.
UserName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.-]*$", max_length=32)]
# No sign that ends a line for some reader, and no control character but the tab.
Text = Annotated[
    str,
    Field(
        pattern=r"^[^\s\x00-\x1f\x7f-\x9f][^\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]*$",
        description="One line",
    ),
]
Count = Annotated[int, Field(ge=0)]


class Facts(BaseModel):
    """A block of keys: unknown ones are mistakes, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

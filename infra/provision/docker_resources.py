"""Where the resources of place docker were: the state of a cluster that is up names this module.

Pulumi keeps a dynamic provider as the name of its class, and loads it from there to remove what it made.
"""

from infra.provision.docker.resources import *  # noqa: F403

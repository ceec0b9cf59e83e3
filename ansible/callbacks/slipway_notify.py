"""Which handlers are notified on which machine, one JSON event a line beside those of ansible.posix.jsonl."""

import json
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: slipway_notify
type: notification
short_description: Events of notified handlers
description:
  - A run that is stopped loses what it was still to restart; from these events the next one knows.
author: Slipway
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "slipway_notify"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_notify(self, handler: Any, host: Any) -> None:
        event = {"_event": "v2_playbook_on_notify", "handler": handler.get_name(), "host": host.get_name()}
        self._display.display(json.dumps(event))

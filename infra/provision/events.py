"""From Pulumi's events to what people read: changes with their reasons, progress, and errors in one line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.model.shape import MachineSpec
from infra.provision.docker.difference import Difference, machine_differences

Kind = Literal["make", "change", "replace", "remove", "drift"]
MACHINES = ("Machine", "Instance", "V2Vm", "Host")  # what places call what a person calls a machine
QUIET = ("pulumi:pulumi:Stack", "pulumi:providers:")  # bookkeeping, nothing that anyone pays for
DOING = {
    "create": "making",
    "create-replacement": "making",
    "update": "changing",
    "delete": "removing",
    "delete-replaced": "removing",
    "refresh": "looking at",
}
# What is not said as a difference: Pulumi's own, and what a resource tells instead of being told.
HIDDEN = {"__provider", "address", "host_key", "container_id", "__defaults"}


@dataclass(frozen=True)
class Change:
    """One resource that differs from what the cluster file says. `watts` and price only of machines."""

    kind: Kind
    name: str  # as the cluster file calls it
    what: str  # machine, network, volume ...
    reason: str
    hardware: str | None = None
    usd_per_hour: float | None = None
    watts: float | None = None


@dataclass
class Report:
    """Reads events as they come. `known` are the machines of the state, as machines.json has them."""

    cluster: str
    specs: Mapping[str, MachineSpec]
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # URNs that refresh found to be there no more
    steps: dict[str, Any] = field(default_factory=dict)  # URN: the last step of the program about it
    errors: list[str] = field(default_factory=list)
    running: dict[str, str] = field(default_factory=dict)
    finished: int = 0

    def event(self, event: Any) -> None:
        """Take one EngineEvent."""
        if event.diagnostic_event:
            self._diagnostic(event.diagnostic_event)
        elif event.resource_pre_event:
            self._begin(event.resource_pre_event.metadata)
        elif event.res_outputs_event:
            self._end(event.res_outputs_event.metadata)
        elif event.res_op_failed_event:
            self.running.pop(event.res_op_failed_event.metadata.urn, None)

    def _diagnostic(self, said: Any) -> None:
        if said.severity == "error":
            name = f"{self._name(said)}: " if said.urn and not quiet(said.urn.split("::")[2]) else ""
            self.errors.append(f"{name}{plain(said.message)}")

    def _begin(self, step: Any) -> None:
        op = str(getattr(step.op, "value", step.op))
        if quiet(step.type):
            return
        if op in DOING:
            self.running[step.urn] = f"{DOING[op]} {self._name(step)}"
        if op in ("create", "update", "delete", "replace", "create-replacement", "delete-replaced"):
            if op == "delete-replaced" or (op == "create-replacement" and step.urn in self.steps):
                return  # the steps of which a replacement consists
            self.steps[step.urn] = step

    def _end(self, step: Any) -> None:
        op = str(getattr(step.op, "value", step.op))
        if op == "refresh" and step.old and not (step.new and step.new.id):
            self.gone.add(step.urn)
        if self.running.pop(step.urn, None) and op != "refresh":
            self.finished += 1

    @property
    def doing(self) -> str:
        """What goes on now, for the step's line."""
        return ", ".join(list(self.running.values())[:4]) + (" ..." if len(self.running) > 4 else "")

    def changes(self) -> list[Change]:
        """What the program would do or has done, in the order in which it does it."""
        return [self._change(step) for step in self.steps.values()]

    def _change(self, step: Any) -> Change:
        op, name = str(getattr(step.op, "value", step.op)), self._name(step)
        kind: Kind
        if op == "create":
            kind, reason = (
                ("drift", "was removed outside: made again") if step.urn in self.gone else ("make", "")
            )
        elif op == "delete":
            kind, reason = "remove", ""
        else:
            replaced = op in ("replace", "create-replacement")
            kind, reason = self._reason(step, replaced=replaced)
        what = kind_of(step.type)
        machine = self._facts(name) if what == "machine" else {}
        return Change(kind, name, what, reason, **machine)

    def _reason(self, step: Any, *, replaced: bool) -> tuple[Kind, str]:
        """Why a resource is changed or replaced, and whether the cluster file or someone outside changed it."""
        found = differences(step)
        asked = {item.key for item in found if differs(step.old.inputs, step.new.inputs, item.key)}
        drift = bool(found) and not asked
        text = ", ".join(item.text for item in found) or "something that Pulumi does not name"
        if replaced:
            text += f": a new {kind_of(step.type)}"
        if drift:
            silent = all(item.key == "trouble" for item in found)  # nothing is known to have changed
            return "drift", text if silent else f"{text} (changed outside)"
        return ("replace" if replaced else "change"), text

    def _facts(self, name: str) -> dict[str, Any]:
        spec = self.specs.get(name)
        if spec:
            return {"hardware": spec.hardware.name, "usd_per_hour": spec.usd_per_hour, "watts": spec.watts}
        known = self.known.get(name, {})
        return {key: known.get(key) for key in ("hardware", "usd_per_hour", "watts")}

    def _name(self, step: Any) -> str:
        name = str(step.urn).rsplit("::", 1)[-1]
        return name.removeprefix(f"slipway-{self.cluster}-")


def quiet(type_: str) -> bool:
    return type_.startswith(QUIET)


def kind_of(type_: str) -> str:
    """machine, network ... from `pulumi-python:dynamic/slipway:Machine` or `aws:ec2/instance:Instance`."""
    word = type_.rsplit(":", 1)[-1]
    return "machine" if word in MACHINES else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", word).lower()


def differences(step: Any) -> list[Difference]:
    """In which properties old and new differ."""
    old, new = step.old, step.new
    if step.type.endswith("slipway:Machine"):
        return machine_differences(dict(old.outputs or {}), dict(new.inputs or {}))
    if step.type.endswith("slipway:Host"):
        from infra.provision.metal.resources import server_differences

        return server_differences(dict(old.outputs or {}), dict(new.inputs or {}))
    keys = step.diffs or list(step.detailed_diff or {}) or step.keys or []
    found = []
    for key in dict.fromkeys(str(key).split(".")[0].split("[")[0] for key in keys):
        if key not in HIDDEN:
            before, after = (old.outputs or {}).get(key), (new.inputs or {}).get(key)
            found.append(Difference(key, f"{words(key)} {short(before)} -> {short(after)}", False))
    return found


def differs(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, key: str) -> bool:
    """Whether what was asked for has changed, not only what is there."""
    return bool((old or {}).get(key) != (new or {}).get(key))


def words(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).replace("_", " ").lower()


def short(value: Any) -> str:
    """A value for one line. Secrets come as an object that holds no text of theirs."""
    if value is None:
        return "none"
    if isinstance(value, dict) and "4dabf18193072939515e22adb298388d" in value:
        return "(secret)"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def plain(message: str) -> str:
    """The line of an error that says what is wrong: no colours, no traceback, no address of a resource."""
    text = re.sub(r"<\{%[^%]*%\}>", "", message)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"(\w+\.)*(Exception|\w+Error): ", line)]
    line = raised[-1].split(": ", 1)[1] if raised else (lines[-1] if lines else "no message")
    line = re.sub(r"^((error|Exception|Exception calling application): )+", "", line)
    engine = re.search(r'Client Error for http.*?\("(.*)"\)$', line)  # the Docker SDK's wrapping
    return engine[1] if engine else line

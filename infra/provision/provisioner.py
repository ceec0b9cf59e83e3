"""The machines of one cluster under Pulumi: preview, up, destroy, and what the state says of them.

The program runs in this process (Automation API); Pulumi's command line is the engine. Everything that belongs
to the cluster lies in build/<cluster>/: state/ (unless machines.backend names another place), pulumi/ (the stack's
settings), secrets/pulumi-passphrase (what encrypts secrets in the state), logs/pulumi.log.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.base import files, keypair, paths
from infra.base.errors import Failure
from infra.base.lock import held
from infra.base.process import output, persons
from infra.base.progress import Step
from infra.images import machine, targets
from infra.model.cluster import Cluster
from infra.model.shape import machines
from infra.provision import cli, lock, plugin, policies
from infra.provision.events import Change, Report, kind_of
from infra.provision.program import Inputs, place, program

PROJECT = "slipway"
WAITING = 64  # controllers of metal that are asked side by side: they are slow, not this machine
ENDING_S = 60  # for the engine of a run that was killed to finish what it was doing


@dataclass(frozen=True)
class Outputs:
    """The content of machines.json: what `up` has made."""

    machines: list[dict[str, Any]] = field(default_factory=list)
    storage: dict[str, Any] = field(default_factory=dict)
    bastion: dict[str, Any] | None = None

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Outputs":
        return cls(found.get("machines") or [], found.get("storage") or {}, found.get("bastion"))


class Provisioner:
    """Pulumi for one cluster. Every method raises Failure in one line; none leaves a lock behind."""

    def __init__(self, cluster: Cluster, step: Step | None = None) -> None:
        """Finds, fetches or builds Pulumi's command line, which `step` shows."""
        self.cluster = cluster
        self.folder = paths.build(cluster.name)
        self._step = step or Step("machines", None)
        self.log = self.folder / "logs" / "pulumi.log"

    def preview(self, *, refresh: bool = True) -> list[Change]:
        """What `up` would do; an empty list when everything is as the cluster file says.

        `refresh`: look at what is really there; without it the state is believed.
        """
        self._check()
        with self._locked() as stack:
            report = self._report(self._step)
            self._run(lambda: stack.preview(refresh=refresh or None, **self._how(report)), report, stack)
        return report.changes()

    def up(self, step: Step, *, anew: str | None = None) -> Outputs:
        """Make the machines what the cluster file says. An interrupted run goes on where it was.

        `anew`: only this machine, which is made again even when nothing about it differs; no other is touched.
        """
        self._step = step
        self._check()
        if self.cluster.where.engine:
            targets.ensure([machine.name(self.cluster.spec.machines.image)], step)
        with self._locked() as stack:
            unsure = self._forget_unfinished(stack)
            report = self._report(step)
            how = {"refresh": True, **self._how(report), **(self._only(stack, anew) if anew else {})}
            self._run(lambda: stack.up(**how), report, stack)
        changes = report.changes()
        twice = f" · look for a second {' '.join(unsure)}, begun by a run that was killed" if unsure else ""
        step.did(_said(changes) + twice, changed=bool(changes))
        found = self.outputs()
        assert found, "an update that has ended well has outputs"
        return found

    def destroy(self, step: Step) -> None:
        """Remove everything that Pulumi has made for this cluster, and the stack."""
        self._step = step
        if not self._exists():
            step.did("no machines", changed=False)
            return
        with self._locked() as stack:
            self._forget_unfinished(stack)
            report = self._report(step)
            self._run(lambda: stack.destroy(refresh=True, **self._how(report)), report, stack)
            stack.workspace.remove_stack(stack.name)
            (self.folder / "pulumi/Pulumi.yaml").unlink()
        gone = [change.name for change in report.changes() if change.what == "machine"]
        step.did(f"removed {' '.join(gone)}" if gone else "nothing was left", changed=True)

    def outputs(self) -> Outputs | None:
        """What the last `up` has made, from the state; None when there was none. Nothing is asked outside."""
        if self.cluster.spec.machines.backend:
            if not (self.folder / "pulumi" / "Pulumi.yaml").exists():
                return None
            with self._opened() as stack:
                return Outputs.of(
                    {key: value.value for key, value in stack.workspace.stack_outputs(stack.name).items()}
                )
        state = files.state(self._checkpoint())
        if state is None:
            return None
        for resource in state["checkpoint"]["latest"].get("resources") or []:
            if resource["type"] == "pulumi:pulumi:Stack" and "machines" in resource.get("outputs", {}):
                return Outputs.of(resource["outputs"])
        return None

    def _only(self, stack: Any, name: str) -> dict[str, Any]:
        """What confines an update to machine `name` and replaces it. One that is not there is made.

        Nothing is refreshed, which would drop a machine that died from the state before it can be the target.
        Given hosts are never replaced: another server is put in their place, by hand.
        """
        resources = stack.export_stack().deployment.get("resources") or []
        urns = [str(resource["urn"]) for resource in resources if kind_of(resource["type"]) == "machine"]
        prefix = f"slipway-{self.cluster.name}-"
        mine = [urn for urn in urns if urn.rsplit("::", 1)[1].removeprefix(prefix) == name]
        if not mine:
            return {"refresh": None, "exclude": urns}
        again = {} if self.cluster.where.given else {"replace": mine}
        return {"refresh": None, "target": mine, "target_dependents": True, **again}

    def _check(self) -> None:
        """What must be known of given hosts, and hold in a cloud, before anything starts. Raises Mistake or Failure."""
        if self.cluster.where.rented:
            self._step.doing("policies")
            policies.enforce(self.cluster)
        if self.cluster.where.given:
            from infra.provision.metal import given

            given.check(self.cluster)

    # -- the stack

    def _checkpoint(self) -> Path:
        return self.folder / "state/.pulumi/stacks" / PROJECT / f"{self.cluster.name}.json"

    def _exists(self) -> bool:
        if self.cluster.spec.machines.backend:
            return (self.folder / "pulumi" / "Pulumi.yaml").exists()
        return self._checkpoint().exists()

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        """The stack, while no other run works on this cluster."""
        with held(self.folder / "provision.lock", f"cluster '{self.cluster.name}'"), self._opened() as stack:
            yield stack

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from pulumi import automation as auto
        except ModuleNotFoundError:
            raise Failure("Pulumi's SDK is not in .venv; run: infra/bootstrap --provision") from None
        command = auto.PulumiCommand(root=str(cli.ensure(self._step).parent), skip_version_check=True)
        where = self.folder / "pulumi"
        where.mkdir(parents=True, exist_ok=True)
        backend = self.cluster.spec.machines.backend
        if not backend:
            (self.folder / "state").mkdir(exist_ok=True)
        workspace = auto.LocalWorkspace(
            work_dir=str(where),
            pulumi_home=str(cli.home()),
            program=program(self.cluster, self.inputs()),
            env_vars=self._environment(),
            pulumi_command=command,
            project_settings=auto.ProjectSettings(
                PROJECT, "python", backend=auto.ProjectBackend(backend or f"file://{self.folder}/state")
            ),
        )
        try:
            # Asking a state of our own by its file is faster than Pulumi's two questions.
            known = not backend and self._exists()
            made = auto.Stack.select if known else auto.Stack.create_or_select
            stack = made(self.cluster.name, workspace)
            settings = getattr(place(self.cluster.place), "config", None)
            if settings:  # a cloud's region and project
                stack.set_all_config(
                    {key: auto.ConfigValue(value) for key, value in settings(self.cluster).items()}
                )
            yield stack
        except auto.CommandError as error:
            raise Failure(self._why(str(error), [])) from None

    def _environment(self) -> dict[str, str]:
        found = {
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self._passphrase()),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
            "PULUMI_BACKEND_URL": self.cluster.spec.machines.backend or f"file://{self.folder}/state",
        }
        if self.cluster.where.given:
            found[plugin.THREADS] = str(WAITING)
            # our provider reads it there, so that it is in no state and no log
            password = self.cluster.spec.bmc.password_env
            found |= {password: persons()[password]} if password in persons() else {}
        if self.cluster.where.engine and "DOCKER_HOST" not in os.environ:
            # The SDK knows nothing of the command line's contexts.
            found["DOCKER_HOST"] = output(
                ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
            )
        return found

    def _passphrase(self) -> Path:
        file = self.folder / "secrets" / "pulumi-passphrase"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.put(file, secrets.token_urlsafe(32) + "\n", 0o600)
        return file

    def inputs(self) -> Inputs:
        """What the machines are made with: the key of Ansible, and on docker the image."""
        public = keypair.ensure(self.folder / "secrets" / "admin", "slipway")
        image = ""
        if self.cluster.where.engine:
            image = targets.targets()[machine.name(self.cluster.spec.machines.image)].where
        return Inputs(public, image)

    # -- running it

    def _report(self, step: Step) -> Report:
        before = self.outputs() if not self.cluster.spec.machines.backend else None
        known = {entry["name"]: entry for entry in before.machines} if before else {}
        self._step = step
        return Report(self.cluster.name, {spec.name: spec for spec in machines(self.cluster)}, known)

    def _how(self, report: Report) -> dict[str, Any]:
        self.log.parent.mkdir(parents=True, exist_ok=True)

        def event(event: Any) -> None:
            report.event(event)
            self._step.doing(report.doing)

        def line(text: str) -> None:
            with self.log.open("a") as file:
                file.write(text + "\n")

        asked = {"parallel": WAITING} if self.cluster.where.given else {}
        return {"on_event": event, "on_output": line, "on_error": line, "color": "never", **asked}

    def _run(self, run: Callable[[], Any], report: Report, stack: Any) -> None:
        """Run it, with its output in the log. Raises Failure with the resources' own errors."""
        from pulumi.automation import CommandError

        self.log.unlink(missing_ok=True)
        try:
            self._past_lock(run, stack)
        except CommandError as error:
            raise Failure(self._why(str(error), report.errors)) from None

    def _past_lock(self, run: Callable[[], Any], stack: Any) -> None:
        """Run it; when the lock of a killed run is in the way, lift that and run it again."""
        from pulumi.automation import ConcurrentUpdateError

        try:
            run()
        except ConcurrentUpdateError as error:
            self._lift(stack, lock.holders(str(error)))
            run()

    def _lift(self, stack: Any, holders: list[lock.Holder]) -> None:
        """Remove the lock of a run that was killed. Raises Failure when it may still run."""
        here = [holder for holder in holders if holder.host == socket.gethostname()]
        deadline = time.monotonic() + ENDING_S
        while here == holders and not all(holder.dead for holder in holders) and time.monotonic() < deadline:
            pids = ", ".join(str(holder.pid) for holder in holders)
            self._step.doing(f"waiting for the engine of an interrupted run (pid {pids}) to end")
            time.sleep(0.2)
        if holders and all(holder.dead for holder in holders):
            stack.cancel()
            return
        who = ", ".join(f"{h.user} (pid {h.pid} on {h.host}) since {h.since}" for h in holders) or "someone"
        raise Failure(
            f"cluster '{self.cluster.name}' is being worked on by {who}: wait until that is done;"
            " if that run was killed, run `pulumi cancel` in "
            f"{self.folder / 'pulumi'}"
        )

    def _forget_unfinished(self, stack: Any) -> list[str]:
        """Take what a killed run had begun to make out of the state, so that it is made now; its names.

        Our own resources have fixed names: they find what is there and go on with it, and nothing is named. What
        a cloud had begun to make cannot be found by Pulumi, and may be there twice then.
        """
        ours = self.cluster.where.engine or self.cluster.where.given
        if not self.cluster.spec.machines.backend:
            state = files.state(self._checkpoint()) or {}
            if not begun(state.get("checkpoint", {}).get("latest") or {}):
                return []
        deployment = stack.export_stack()
        names = begun(deployment.deployment)
        if names:
            deployment.deployment["pending_operations"] = []
            self._past_lock(lambda: stack.import_stack(deployment), stack)
        return [] if ours else names

    def _why(self, message: str, errors: list[str]) -> str:
        """One line: the resource's own error when there is one, else what Pulumi says last."""
        if "incorrect passphrase" in message:
            return (
                f"{self._passphrase()} is not the passphrase that this cluster's state was encrypted with:"
                " put the right one there"
            )
        own = [text for text in errors if not text.startswith(("update failed", "preview failed"))]
        lines = [line.strip() for line in message.splitlines() if line.strip().startswith("error:")]
        reason = "; ".join(dict.fromkeys(own)) or (
            lines[-1].removeprefix("error: ") if lines else message.strip()
        )
        return f"Pulumi: {' '.join(reason.split())}\n  log: {self.log}"


def begun(deployment: dict[str, Any]) -> list[str]:
    """Names of the resources that a run had begun to make or change when it was killed."""
    pending = deployment.get("pending_operations") or []
    return [str(operation["resource"]["urn"]).rsplit("::", 1)[-1] for operation in pending]


def _said(changes: list[Change]) -> str:
    """made c1 c2 · changed c3; `unchanged` when nothing was done."""
    words = {
        "make": "made",
        "change": "changed",
        "replace": "replaced",
        "remove": "removed",
        "drift": "put right",
    }
    parts = []
    for kind, word in words.items():
        names = [change.name for change in changes if change.kind == kind]
        if names:
            parts.append(f"{word} {' '.join(names)}" if len(names) <= 6 else f"{word} {len(names)}")
    return " · ".join(parts) or "unchanged"

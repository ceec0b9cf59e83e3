# Every verb of Slipway. No logic here: one verb, one command, the same in CI and by hand.
#
#   make cluster-up                            from nothing to a cluster that has trained a model
#   make cluster-up CLUSTER=clusters/x.yaml    another cluster
#   make cluster-up JOB=                       without the job at the end
#   make cluster-down PURGE=1                  remove everything, volumes too
#   make cluster-up CLUSTER=clusters/kind.yaml Kubernetes instead of Slurm

CLUSTER ?= clusters/lab.yaml
JOB ?= jobs/ddp.sbatch
TESTS ?=

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# once, and not again for each recipe: the tools are part of the way to the first training step
export SLIPWAY_STARTED := $(or $(SLIPWAY_STARTED),$(shell date +%s.%N))

venv := .venv/bin
infra := $(venv)/python -Es -m infra
# verbs of Kubernetes mean its own cluster unless another is named
kind = $(if $(filter file,$(origin CLUSTER)),clusters/kind.yaml,$(CLUSTER))

help: ## show these verbs
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

cluster-up: $(venv)/ready ## build what is missing, start the cluster, prove it with a training job
	@$(infra) up $(CLUSTER) --job "$(JOB)" $(if $(REQUEUE),--requeue)

plan: $(venv)/ready ## what cluster-up would change on machines, and what has drifted (CLUSTER=clusters/site.yaml)
	@$(infra) plan $(if $(filter file,$(origin CLUSTER)),clusters/site.yaml,$(CLUSTER)) $(if $(JSON),--json)

replace: $(venv)/ready ## a new machine for a broken one (NODE=gpu-1 CLUSTER=..., REQUEUE=1: its jobs are not waited for)
	@$(infra) replace $(CLUSTER) "$(NODE)" $(if $(REQUEUE),--requeue)

upgrade: $(venv)/ready ## Slurm and stack as the cluster file asks, while jobs run (BACK=1: to an older Slurm)
	@$(infra) upgrade $(CLUSTER) $(if $(BACK),--back) $(if $(REQUEUE),--requeue)

cluster-down: $(venv)/ready ## stop and remove the cluster (PURGE=1: its volumes and secrets as well)
	@$(infra) down $(CLUSTER) $(if $(PURGE),--purge)

status: $(venv)/ready ## nodes, jobs, health, addresses, disk
	@$(infra) status $(CLUSTER)

logs: $(venv)/ready ## what the nodes log (NODE=slurmctld: one node, FOLLOW=1: go on)
	@$(infra) logs $(CLUSTER) $(NODE) $(if $(FOLLOW),--follow)

shell: $(venv)/ready ## a shell on the login node (NODE=c1: another node, as root)
	@$(infra) shell $(CLUSTER) $(NODE)

env: $(venv)/ready ## what to eval, so that sbatch, squeue, kubectl and the others work in this shell
	@$(infra) env $(CLUSTER)

results: $(venv)/ready ## Kubernetes: follow a job, then fetch its run folder and logs to runs/ (JOB=ddp)
	@$(infra) results "$(JOB)" $(kind)

kubeconfig: $(venv)/ready ## Kubernetes: put the cluster into your own ~/.kube/config (UNDO=1: take it out)
	@$(infra) kubeconfig $(kind) $(if $(UNDO),--undo)

manifests: $(venv)/ready ## Kubernetes: what kubectl apply -k needs, for a cluster made elsewhere (CLUSTER=clusters/mine.yaml)
	@$(infra) manifests $(kind)

verify: $(venv)/ready ## check every node of the running cluster
	@$(infra) verify $(CLUSTER)

rotate-secrets: $(venv)/ready ## new munge key, JWT key and database password for the cluster
	@$(infra) rotate-secrets $(CLUSTER)

host: $(venv)/ready ## make this machine able to run containers
	@$(infra) host

images: $(venv)/ready ## build every image, the stack's too, verify them, say what Debian has fixed since (REFRESH=1: build anew)
	@$(infra) images build $(if $(REFRESH),--refresh)
	@$(infra) images verify
	@$(infra) images updates

render: $(venv)/ready ## write build/<cluster>/ from hardware/ and clusters/
	@$(infra) render $(CLUSTER)

show: $(venv)/ready ## what a cluster file means: nodes, cores, GPUs, memory, power, price
	@$(infra) show $(CLUSTER)

check: $(venv)/provision-ready ## format, lint, types and unit tests; about a minute
	@tests/check

test: $(venv)/provision-ready ## every tier: check, images, jobs, a real lab, real machines, Kubernetes (WRITE=1: minutes into tests/README.md)
	@$(if $(WRITE),WRITE=1) tests/run-all

test-lab: $(venv)/ready ## the tests that need Docker (TESTS="-k kill": some of them)
	@tests/run-lab $(TESTS)

test-machines: $(venv)/provision-ready ## the tests of machines: Pulumi, Ansible, Redfish (TESTS="-k drift": some of them)
	@tests/run-machines $(TESTS)

test-kind: $(venv)/ready ## the tests of Kubernetes (TESTS="-k quota": some of them)
	@tests/run-kind $(TESTS)

test-more: $(venv)/provision-ready ## not in test: what takes long and changes seldom, in every tier (TESTS="-k elastic": some of them)
	@tests/run-more $(TESTS)

bench: $(venv)/ready ## the figures of docs/measured.md, each beside its limit (WRITE=1: write them there)
	@$(infra) bench all $(if $(WRITE),--write docs/measured.md)

lock: $(venv)/ready ## resolve the tooling's dependencies again, into requirements.lock
	@infra/bootstrap --lock

$(venv)/ready: requirements.lock infra/bootstrap
	@infra/bootstrap

$(venv)/provision-ready: requirements.lock requirements-provision.lock infra/bootstrap
	@infra/bootstrap --provision

.PHONY: help cluster-up plan replace upgrade cluster-down status logs shell env results kubeconfig manifests verify rotate-secrets host \
        images render show check test test-lab test-machines test-kind test-more bench lock

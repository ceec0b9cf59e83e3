"""The mesh and what it needs are known before anything starts: no torch, under a second, one line a mistake."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.base.paths import CHECKOUT
from jobs import config
from jobs.cli.errors import Mistake
from jobs.parallel.mesh import DIMENSIONS, Mesh
from jobs.tools import preflight

small = st.sampled_from([1, 2, 3, 4])
meshes = st.builds(
    Mesh,
    form=st.sampled_from(["ddp", "fsdp"]),
    pipeline=small,
    replicate=small,
    shard=small,
    context=small,
    tensor=small,
    schedule=st.sampled_from(["1f1b", "interleaved"]),
)


def loaded(**options: object) -> config.Config:
    return config.load([f"--{name.replace('__', '.')}={value}" for name, value in options.items()])


@settings(deadline=None)
@given(meshes)
def test_each_rank_has_its_own_place_and_groups_divide_the_world(mesh: Mesh) -> None:
    places = [tuple(mesh.coordinates(rank).values()) for rank in range(mesh.world)]
    assert len(set(places)) == mesh.world
    for name in DIMENSIONS:
        groups = mesh.groups(name)
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.world))
        for group in groups:
            assert [mesh.coordinates(rank)[name] for rank in group] == list(range(getattr(mesh, name)))
            others = [
                {key: at for key, at in mesh.coordinates(rank).items() if key != name} for rank in group
            ]
            assert all(each == others[0] for each in others)


@settings(deadline=None)
@given(meshes)
def test_each_part_of_the_batch_is_read_by_as_many_ranks_as_share_its_model(mesh: Mesh) -> None:
    readers = Counter(mesh.data_rank(rank) for rank in range(mesh.world))
    assert sorted(readers) == list(range(mesh.data))
    assert set(readers.values()) == {mesh.world // mesh.data}


@settings(deadline=None)
@given(meshes, st.integers(min_value=8, max_value=40))
def test_each_block_is_in_one_stage_and_each_stage_on_the_ranks_of_one_place(mesh: Mesh, layers: int) -> None:
    blocks = [block for stage in range(mesh.stages) for block in mesh.blocks(stage, layers)]
    assert blocks == list(range(layers))
    sizes = [len(mesh.blocks(stage, layers)) for stage in range(mesh.stages)]
    assert max(sizes) - min(sizes) <= 1
    of = {mesh.coordinates(rank)["pipeline"]: mesh.stages_of(rank) for rank in range(mesh.world)}
    assert sorted(stage for stages in of.values() for stage in stages) == list(range(mesh.stages))


@settings(deadline=None)
@given(
    form=st.sampled_from(["ddp", "fsdp"]),
    sizes=st.tuples(
        *[st.integers(min_value=0, max_value=4)] * 2, *[st.integers(min_value=1, max_value=4)] * 3
    ),
    shape=st.tuples(st.sampled_from([1, 2, 4, 6]), st.sampled_from([1, 2, 4]), st.sampled_from([16, 48, 64])),
    batch=st.integers(min_value=1, max_value=48),
    ranks=st.integers(min_value=1, max_value=32),
)
def test_a_mesh_fits_world_model_and_batch_or_says_why_not(
    form: str, sizes: tuple[int, ...], shape: tuple[int, ...], batch: int, ranks: int
) -> None:
    replicate, shard, tensor, pipeline, context = sizes
    layers, heads, time_ = shape
    asked = loaded(
        mesh__form=form,
        mesh__replicate=replicate,
        mesh__shard=shard,
        mesh__tensor=tensor,
        mesh__pipeline=pipeline,
        mesh__context=context,
        model__layers=layers,
        model__heads=heads,
        model__width=32,
        model__context=time_,
        train__batch=batch,
    )
    try:
        mesh = Mesh.of(asked, ranks)
    except Mistake as mistake:
        assert all(line.partition(":")[0] in (*config_names(), "mesh") for line in str(mistake).splitlines())
        return
    assert mesh.world == ranks
    assert batch % (mesh.data * mesh.microbatches) == 0
    assert heads % mesh.tensor == 0
    assert time_ % (mesh.context * mesh.tensor) == 0
    assert layers >= mesh.stages
    assert all(
        asked_for in (0, got) for asked_for, got in ((replicate, mesh.replicate), (shard, mesh.shard))
    ) or (form == "ddp" and shard == 1)
    # What all ranks hold together is the model, once for each copy: nothing is lost, fsdp pads a little.
    copies = mesh.replicate * (mesh.shard * mesh.context if mesh.form == "ddp" else 1)
    together = sum(preflight.memory(asked, mesh, rank).optimiser for rank in range(ranks))
    once = 8 * preflight.checkpoint_bytes(asked) // 12
    assert once * copies <= together <= once * copies * (2 if mesh.form == "fsdp" else 1)


def config_names() -> list[str]:
    return [f"{section}.{key}" for section, keys in asdict(config.Config()).items() for key in keys]


@pytest.mark.parametrize(
    ("ranks", "options", "said"),
    [
        (4, {"mesh__tensor": 3}, "x mesh.tensor 3 = 3 does not divide 4 ranks"),
        (4, {"mesh__shard": 2}, "mesh.shard: 2, but ddp splits no weights; use mesh.form fsdp"),
        (4, {"mesh__form": "fsdp", "mesh__shard": 3}, "mesh.shard 3 does not make 4"),
        (4, {"mesh__replicate": 2}, "leaves 4 of 4 ranks, but mesh.replicate 2"),
        (3, {}, "train.batch: 32 sequences do not split evenly over 3 ranks"),
        (2, {"compute__accumulate": 3}, "over 2 ranks x 3 accumulated parts"),
        (2, {"mesh__pipeline": 2, "mesh__microbatches": 5}, "over 1 rank x 5 microbatches"),
        (8, {"mesh__tensor": 8}, "mesh.tensor: 8 ranks do not split model.heads 4 evenly"),
        (3, {"mesh__tensor": 3, "model__heads": 3, "model__width": 96}, "256 bytes evenly; use a power of 2"),
        (3, {"mesh__context": 3, "train__batch": 30}, "model.context must be a multiple of 6; it is 128"),
        (4, {"mesh__tensor": 4, "model__context": 126}, "4 ranks split a sequence of 126"),
        (
            24,
            {"mesh__form": "fsdp", "train__batch": 24, "model__width": 128},
            "mesh.shard: 24 x mesh.context 1 does not split model.width 128 evenly",
        ),
        (8, {"mesh__pipeline": 8}, "8 stages need as many blocks; model.layers is 4"),
        (4, {"mesh__pipeline": 4, "mesh__schedule": "interleaved"}, "8 stages need as many blocks"),
        (2, {"mesh__pipeline": 2, "mesh__microbatches": 1}, "1 do not fill a pipeline of 2"),
        (
            4,
            {
                "mesh__pipeline": 4,
                "mesh__schedule": "interleaved",
                "mesh__microbatches": 6,
                "model__layers": 8,
            }
            | {"train__batch": 6},
            "6 must be a multiple of mesh.pipeline 4 when interleaved",
        ),
        (2, {"mesh__pipeline": 2, "compute__accumulate": 2}, "raise mesh.microbatches"),
        (2, {"mesh__tensor": 2, "compute__precision": "fp8"}, "fp8 with mesh.tensor above 1"),
    ],
)
def test_what_does_not_go_together_is_one_line(ranks: int, options: dict[str, object], said: str) -> None:
    with pytest.raises(Mistake) as caught:
        Mesh.of(loaded(**options), ranks)
    (line,) = [each for each in str(caught.value).splitlines() if said in each]
    assert line.partition(":")[0] in (*config_names(), "mesh")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = (
        "import sys; from jobs.tools import preflight; code = preflight.main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=CHECKOUT, capture_output=True, text=True
    )


def test_it_takes_less_than_a_second_and_no_torch() -> None:
    """Processor time: how much of the clock's it gets depends on what else runs here."""
    before = os.times()
    done = run("--config=jobs/ddp.yaml", "--ranks=2", "--profile=hardware/h100-sxm-8x.yaml", "--warning-s=60")
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "fits"
    assert took < 1


def test_ten_thousand_ranks_are_as_fast_as_two() -> None:
    start = time.process_time()
    asked = loaded(train__batch=12288, mesh__tensor=4, model__heads=8)
    found = preflight.check(asked, Mesh.of(asked, 49152), preflight.Hardware(), None, 1.0)
    assert time.process_time() - start < 0.2
    assert found["fits"]


LARGE = ("--model.width=8192", "--model.layers=80", "--model.heads=64", "--model.context=4096")


def test_what_does_not_fit_is_exit_code_1_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    profile = f"--profile={CHECKOUT / 'hardware/h100-sxm-8x.yaml'}"
    code = preflight.main([*LARGE, "--ranks=8", profile, "--write-gb-per-s=1", "--warning-s=60", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    memory, warning = found["problems"][0], found["problems"][-1]
    assert "mesh.form=fsdp splits them" in memory
    assert found["parameters"] == 2 * 256 * 8192 + 80 * 12 * 8192**2
    assert warning.startswith("--warning-s: a save takes 773.1 s at 1.00 GB/s (given), longer than the 60 s")

    fsdp = ("--mesh.form=fsdp", "--train.batch=64", "--compute.precision=bf16", "--compute.recompute=true")
    preflight.main([*LARGE, "--ranks=64", profile, "--write-gb-per-s=50", "--json", *fsdp])
    found = json.loads(capsys.readouterr().out)
    assert not any(problem.startswith("memory") for problem in found["problems"])


def test_checkpoints_are_held_against_the_free_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = 3 * preflight.checkpoint_bytes(loaded())
    arguments = ["--ranks=1", f"--run.folder={tmp_path / 'run'}", "--write-gb-per-s=1"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert preflight.main(arguments) == 0
    assert preflight.main([*arguments, "--checkpoint.keep=3"]) == 1
    assert (
        "checkpoint.keep: 4 checkpoints at once are 39.0 MiB; 29.2 MiB are free in" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ranks=0",), "--ranks: 0 is too small"),
        (("--ranks=2", "--warning-s=-1"), "--warning-s: -1.0 is too small"),
        (("--ranks=2", "--train.stesp=1"), "--train.stesp: no such option. Did you mean 'train.steps'?"),
        (
            ("--ranks=2", "--profile=hardware/h100.yaml"),
            "No such file or directory; profiles are hardware/*.yaml",
        ),
        (("--ranks=2", "--profile=pyproject.toml"), "--profile: pyproject.toml: not YAML"),
        (("--ranks=2", "--profile=jobs/ddp.yaml"), "needs accelerators.count and accelerators.memory_gib"),
        (("--ranks=12", "--gpus-per-node=8", "--train.batch=24"), "12 ranks do not fill nodes of 8 GPUs"),
        (
            ("--ranks=12", "--gpus-per-node=6", "--mesh.tensor=4", "--train.batch=24"),
            "groups of 4 would cross nodes of 6 GPUs",
        ),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    assert preflight.main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")

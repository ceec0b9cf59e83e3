"""NaN and spikes of the loss: every rank comes to the same verdict from the same sums, and the policy is kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.config import Guard as Policy
from jobs.resilience.guard import Act, Guard, Verdict, signs

NAN = math.nan
one_rank = st.tuples(
    st.sampled_from([1.0, 2.0, 50.0, NAN, math.inf]), st.sampled_from([0.5, NAN, math.inf, 1e30])
)


def step(guards: list[Guard], losses: list[float], norms: list[float]) -> list[Verdict]:
    """A step of ranks with these losses and norms, as train.py reduces and judges it."""
    each = [signs(rank, *one) for rank, one in enumerate(zip(losses, norms, strict=True))]
    sums = [sum(column) for column in zip(*each, strict=True)]
    return [guard.judge(sum(losses) / len(losses), sums) for guard in guards]


def ranks(count: int, **policy: object) -> list[Guard]:
    return [Guard(Policy(**policy), count) for _ in range(count)]  # type: ignore[arg-type]


@given(
    st.lists(st.lists(one_rank, min_size=3, max_size=3), max_size=40),
    st.sampled_from(["stop", "skip", "off"]),
    st.sampled_from(["off", "skip", "stop"]),
)
def test_all_ranks_come_to_the_same_verdict(
    steps: list[list[tuple[float, float]]], nonfinite: str, spike: str
) -> None:
    guards = ranks(3, nonfinite=nonfinite, spike=spike, window=12)
    for one in steps:
        verdicts = step(guards, [loss for loss, _ in one], [norm for _, norm in one])
        assert len(set(verdicts)) == 1
        finite = all(math.isfinite(loss) and math.isfinite(norm) for loss, norm in one)
        if not finite and nonfinite != "off":
            assert verdicts[0].act in (Act(nonfinite), Act.STOP)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_ranks_nan_is_named(rank: int) -> None:
    losses = [1.0, 1.0, 1.0]
    losses[rank] = NAN
    (verdict, *_) = step(ranks(3), losses, [NAN] * 3)
    assert verdict == Verdict(Act.STOP, f"the loss is not finite on rank {rank} alone")


def test_an_infinite_gradient_with_finite_losses_is_found() -> None:
    (verdict, *_) = step(ranks(2, nonfinite="skip"), [1.0, 1.0], [math.inf, math.inf])
    assert verdict == Verdict(Act.SKIP, "the gradient is not finite")


def test_off_lets_everything_pass() -> None:
    assert step(ranks(2, nonfinite="off"), [NAN, NAN], [NAN, NAN])[0].act is Act.GO


def test_a_spike_is_told_from_noise_and_from_a_beginning() -> None:
    (guard,) = ranks(1, spike="skip", window=20, spike_sigmas=6)
    assert step([guard], [1e9], [1.0])[0].act is Act.GO  # nothing to compare it with
    for number in range(40):
        assert step([guard], [2.0 + 0.1 * (number % 3)], [1.0])[0].act is Act.GO
    (verdict,) = step([guard], [4.0], [1.0])
    assert verdict.act is Act.SKIP
    assert verdict.why.startswith("loss 4 is above 2.")
    assert step([guard], [2.2], [1.0])[0].act is Act.GO  # the spike did not raise the limit


def test_too_many_skips_in_a_row_stop_the_run() -> None:
    (guard,) = ranks(1, nonfinite="skip", skips=3)
    acts = [step([guard], [NAN], [NAN])[0].act for _ in range(4)]
    assert acts == [Act.SKIP] * 3 + [Act.STOP]
    assert guard.skipped == 3


def test_one_good_step_between_begins_the_count_anew() -> None:
    (guard,) = ranks(1, nonfinite="skip", skips=2)
    for _ in range(5):
        assert step([guard], [NAN], [NAN])[0].act is Act.SKIP
        assert step([guard], [NAN], [NAN])[0].act is Act.SKIP
        assert step([guard], [1.0], [1.0])[0].act is Act.GO


@given(st.lists(st.sampled_from([1.0, 1.1, 1.2, 9.0, NAN]), min_size=1, max_size=80), st.data())
def test_a_resumed_run_judges_as_if_it_had_never_stopped(losses: list[float], data: st.DataObject) -> None:
    policy = {"nonfinite": "skip", "spike": "skip", "window": 15, "skips": 4}
    (whole,) = ranks(1, **policy)
    lines, verdicts = [], []
    for loss in losses:
        (verdict,) = step([whole], [loss], [1.0])
        if verdict.act is Act.STOP:
            break
        lines.append({"loss": loss, "skipped": verdict.why} if verdict.why else {"loss": loss})
        verdicts.append(verdict)
    at = data.draw(st.integers(0, len(lines)))
    (resumed,) = ranks(1, **policy)
    resumed.remember(lines[max(0, at - resumed.reaches_back) : at])
    again = [step([resumed], [loss], [1.0])[0] for loss in losses[at : len(lines)]]
    assert [each.act for each in again] == [each.act for each in verdicts[at:]]

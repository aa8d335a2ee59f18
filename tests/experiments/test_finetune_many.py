"""Fine-tuning in PyTorch, which fine-tuning of many candidates is measured beside."""

import pytest

pytest.importorskip("torch", reason="what is measured beside, of the extra bench")

import finetune_many


@pytest.mark.slow
def test_two_steps_give_the_weights_of_the_tool():
    finetune_many.check(finetune_many.pose(1, 1, epochs=2))


def test_candidates_keep_a_fifth_to_a_half_of_the_parameters():
    task = finetune_many.pose(8, 1)
    for mask in task.masks:
        left = 1 - finetune_many.without(task.structure, mask[None])
        assert 0.15 < left < 0.6

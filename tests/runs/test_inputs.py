"""What a run folder says that its training was given is found again, or told to be something else."""

import pytest

from ssdml_fast.data import DataError
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.runs.inputs import stored_inputs

DIGITS = {"name": "digits", "labels_per_class": 5}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"backbone": "auto", "depth": 9}, "this is of an unknown network, {'backbone': 'auto', 'depth': 9}"),
        ({"backbone": 9}, "this is of an unknown network"),
        ({"digest": "00"}, "weights must be those that the run was trained with, found others for auto"),
    ],
)
def test_a_network_that_is_not_that_of_the_run_is_told(tmp_path, network, message):
    with pytest.raises(DataError, match=message):
        stored_inputs(RunFolder(tmp_path, DIGITS, network), seed=0)


def test_folders_from_before_there_was_a_choice_have_the_network_that_goes_with_their_images(tmp_path):
    inputs = stored_inputs(RunFolder(tmp_path, DIGITS), seed=0)
    assert inputs.network["backbone"] == "paper" and inputs.dataset == DIGITS
